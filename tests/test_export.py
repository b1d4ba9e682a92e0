"""What training and sampling compute lowers for accelerators that this machine does not have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from scoreflow_jax import sampling
from scoreflow_jax.likelihood import log_likelihood
from scoreflow_jax.ode import Solver
from tests.commands.runs import experiment_of

PLATFORMS = ("tpu", "cuda")


@pytest.fixture(scope="module")
def experiment():
    """CIFAR-10's network made small: attention, dropout, both kinds of resampling, recomputed activations, bfloat16."""
    return experiment_of(
        "digits.py",
        model__dtype="bfloat16", model__attention_resolutions=(4,), model__remat_resolutions=(8,), model__dropout=0.1,
        train__microbatches=2,
    )  # fmt: skip


def lower(function, *arrays, platform):
    exported = export.export(jax.jit(function), platforms=[platform])(*arrays)
    assert exported.platforms == (platform,)
    return exported.mlir_module()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_train_step_lowers(experiment, platform):
    state = jax.eval_shape(experiment.initial_state)
    module = lower(experiment.train_step(on_cpu=False), state, experiment.batch_shapes(), platform=platform)
    assert "bf16" in module
    assert "stablehlo.while" in module  # microbatches, in a loop of the device


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("what", ["generate", "translate", "likelihood"])
def test_the_solves_lower(experiment, platform, what):
    params, solver = experiment.parameter_shapes(), experiment.solver
    x = jax.ShapeDtypeStruct((4, *experiment.spec.shape), jnp.float32)
    label = jax.ShapeDtypeStruct((4,), jnp.int32)
    function, arrays = {
        "generate": (lambda p, x, c: sampling.generate(experiment.drift(p), x, c, solver), (params, x, label)),
        "translate": (
            lambda p, x, c, d: sampling.TRANSLATIONS["difference"].solve(experiment.drift(p), x, c, d, solver),
            (params, x, label, label),
        ),
        "likelihood": (
            lambda p, x, v, c: log_likelihood(experiment.drift(p), x, c, solver, probes=v),
            (params, x, jax.ShapeDtypeStruct((4, 2, *experiment.spec.shape), jnp.float32), label),
        ),
    }[what]
    module = lower(function, *arrays, platform=platform)
    assert "stablehlo.while" in module
    assert "bf16" not in module  # solves are float32
    assert "HIGHEST" in module
    assert "callback" not in module


@pytest.mark.parametrize("method", ["euler", "heun", "ab3"])
def test_fixed_steps_lower(experiment, method):
    """Without a callback, which no other host can run, and their number an argument."""
    solver = Solver(method=method, num_steps=4)
    x, label = jax.ShapeDtypeStruct((4, *experiment.spec.shape), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.int32)

    def generate(p, x, c, n):
        return sampling.generate(experiment.drift(p), x, c, solver.with_numbers({"num_steps": n})).y

    shapes = (experiment.parameter_shapes(), x, label, jax.ShapeDtypeStruct((), jnp.int32))
    module = lower(generate, *shapes, platform="tpu")
    assert "stablehlo.while" in module
    assert "callback" not in module


def test_an_exported_sampler_runs(experiment):
    """For CPU, where it can be run: the program is whole."""
    params = experiment.init(jax.random.key(0))
    x, label = jax.random.normal(jax.random.key(1), (2, *experiment.spec.shape)), jnp.array([0, 1], jnp.int32)
    generate = jax.jit(lambda p, x, c: sampling.generate(experiment.drift(p), x, c, experiment.solver).y)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (params, x, label))
    program = export.deserialize(export.export(generate)(*shapes).serialize())
    np.testing.assert_allclose(program.call(params, x, label), generate(params, x, label), rtol=1e-5, atol=1e-5)
