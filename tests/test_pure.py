"""The drift, and the functions of sampling and likelihood, under jit, vmap, grad and scan: what they give by themselves.

No kernel of this package forbids one of them: the gradient of 3x3 convolutions on CPU has rules for both modes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax import Model, sampling
from scoreflow_jax.command_line import load_config
from scoreflow_jax.experiment import build, resolve
from scoreflow_jax.likelihood import draw_probes, generate_with_likelihood, log_likelihood
from scoreflow_jax.ode import Solver
from scoreflow_jax.plain_config import to_plain
from tests.conftest import ROOT


def model_of(name, **fields):
    """An untrained small network, its parameters shaken so that the drift depends on all that it is told."""
    config = to_plain(load_config(f"{ROOT / 'configs' / name}"))
    config["model"].update(fields)
    experiment = build(resolve(config))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: jnp.asarray(0.1 * rng.normal(size=s.shape), jnp.float32), experiment.parameter_shapes()
    )
    return Model(experiment, params, 0)


POINTS = model_of("rectified_flow.py:gaussians", width=16, num_blocks=1)
DRIFT = POINTS.experiment.drift(POINTS.params)
ADAPTIVE, FIXED = Solver(method="dopri5", rtol=1e-3, atol=1e-3), Solver(method="midpoint", num_steps=3)
PROBES = draw_probes(jax.random.key(0), jnp.arange(3), (2,), "rademacher", 1)

FUNCTIONS = {
    "drift": lambda x, label: POINTS.drift(x, 0.3, label),
    "generate": lambda x, label: sampling.generate(DRIFT, x, label, ADAPTIVE).y,
    "generate, fixed": lambda x, label: sampling.generate(DRIFT, x, label, FIXED).y,
    "encode": lambda x, label: sampling.encode(DRIFT, x, label, ADAPTIVE).y,
    "translate_latent": lambda x, label: sampling.translate_latent(DRIFT, x, label, 7 - label, FIXED).y,
    "translate_difference": lambda x, label: sampling.translate_difference(DRIFT, x, label, 7 - label, FIXED).y,
    "interpolate": lambda x, label: sampling.interpolate_latents(x, x + 1.0, jnp.linspace(0.0, 1.0, 3), "slerp"),
    "log_likelihood": lambda x, label: log_likelihood(DRIFT, x, label, FIXED, probes=PROBES).y[0],
    "log_likelihood, exact": lambda x, label: log_likelihood(DRIFT, x, label, ADAPTIVE, probes=None).y[0],
    "generate_with_likelihood": lambda x, label: generate_with_likelihood(DRIFT, x, label, FIXED, probes=PROBES).y[0],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_pure(name):
    function = FUNCTIONS[name]
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 2)), jnp.float32)
    labels = jnp.asarray([[1, 4, 7], [0, 2, 2]], jnp.int32)
    plain = jnp.stack([function(*pair) for pair in zip(x, labels, strict=True)])
    close = lambda found, wanted: np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-4)
    close(jax.jit(function)(x[0], labels[0]), plain[0])
    close(jax.vmap(function)(x, labels), plain)
    close(jax.lax.scan(lambda carry, pair: (carry, function(*pair)), 0, (x, labels))[1], plain)
    total = lambda x: jnp.sum(function(x, labels[0]) ** 2)
    gradient, step = jax.jit(jax.grad(total))(x[0]), 1e-2
    direction = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2)), jnp.float32)
    slope = (total(x[0] + step * direction) - total(x[0] - step * direction)) / (2 * step)
    assert jnp.vdot(gradient, direction) == pytest.approx(float(slope), rel=0.05, abs=0.02)


def test_the_drift_of_images_is_pure_too():
    model = model_of("digits.py:smoke", channel_multipliers=(1,))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 2, 8, 8, 1)), jnp.float32)
    labels = jnp.asarray([[1, 4], [0, 2]], jnp.int32)
    function = lambda x, label: model.drift(x, 0.3, label)
    plain = jnp.stack([function(*pair) for pair in zip(x, labels, strict=True)])
    np.testing.assert_allclose(jax.vmap(jax.jit(function))(x, labels), plain, atol=1e-5)
    np.testing.assert_allclose(jax.lax.map(lambda pair: function(*pair), (x, labels)), plain, atol=1e-5)
    assert np.isfinite(jax.grad(lambda x: jnp.sum(function(x, labels[0])))(x[0])).all()
