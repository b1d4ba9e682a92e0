"""Classifier-free guidance on Gaussian classes, whose guided drift is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax.ode import Solver
from scoreflow_jax.paths.guidance import guided, network_calls
from scoreflow_jax.sampling import generate

MEANS = jnp.array([[2.0, 0.0], [-1.0, 1.0]])
X = jax.random.normal(jax.random.key(0), (6, 2))
LABEL = jnp.array([0, 1, 0, 1, 0, 1])
WEIGHT = jnp.array([0.0, 0.0, 1.0, 1.0, 3.0, 3.0])


def drift(x, t, label):
    """The exact drift to N(m_c, I), and to N(0, I) without a label; their difference does not depend on x."""
    slope = ((2 * t - 1) / ((1 - t) ** 2 + t**2))[:, None]
    mean = jnp.zeros_like(x) if label is None else MEANS[label]
    return mean + slope * (x - t[:, None] * mean)


@pytest.mark.parametrize("per_sample", [False, True])
def test_guidance_moves_every_sample_by_its_own_weight(per_sample):
    """Guided by w, the drift is the exact one to N(w m_c, I), whose flow is x -> w m_c + x."""
    solver = Solver(rtol=1e-6, atol=1e-6, per_sample=per_sample)
    got = generate(drift, X, LABEL, solver, guidance=WEIGHT).y
    np.testing.assert_allclose(got, X + WEIGHT[:, None] * MEANS[LABEL], atol=1e-4)


def test_weight_one_and_zero_are_the_two_drifts():
    t = jnp.full((6,), 0.3)
    one, zero = (guided(drift)(X, t, (LABEL, jnp.full((6,), w))) for w in (1.0, 0.0))
    np.testing.assert_allclose(one, drift(X, t, LABEL), atol=1e-6)
    np.testing.assert_array_equal(zero, drift(X, t, None))


def test_network_calls_are_counted_by_running():
    """Each evaluation of the guided field calls the drift twice."""
    calls = []

    def counting(x, t, label):
        jax.debug.callback(lambda: calls.append(label is None))
        return drift(x, t, label)

    solver = Solver(method="heun", num_steps=4)
    solution = generate(counting, X, LABEL, solver, guidance=WEIGHT)
    jax.effects_barrier()
    assert len(calls) == int(solution.num_evaluations) * network_calls(3.0) == 16
    assert network_calls(1.0) == 1
