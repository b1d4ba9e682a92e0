"""The stable form of the loss is algorithm 1's, its weights are the family's, and its minimizer is the exact drift."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax.objectives import OBJECTIVES, PathConstrained
from scoreflow_jax.paths import LinearPath
from tests import oracles

PATH = LinearPath()
KEYS = jax.random.split(jax.random.key(1), 4)
Z, X = (jax.random.normal(k, (32, 2, 2, 1)) for k in KEYS[:2])
T = jnp.linspace(0.02, 1.0, 32)


def some_drift(x, t, label):
    """A drift that is wrong everywhere."""
    return jnp.sin(3 * x) + t[:, None, None, None] * x


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 2.0])
def test_agrees_with_algorithm_1_as_printed(p):
    t = T[:, None, None, None]
    target = (1 - t) * Z + t * X
    one_step = Z + t * some_drift(target, T, None)
    literal = T**-p * jnp.mean((one_step - target) ** 2, axis=(1, 2, 3))
    got = PathConstrained(PATH, weight_exponent=p)(some_drift, Z, X, T, None)
    np.testing.assert_allclose(got, literal, rtol=2e-4)  # the printed form subtracts nearly equal numbers at small t


def test_p_2_is_rectified_flow():
    expected = jnp.mean((some_drift(PATH.interpolant(T, Z, X), T, None) - (X - Z)) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(
        PathConstrained(PATH, weight_exponent=2.0)(some_drift, Z, X, T, None), expected, rtol=1e-6
    )


def test_finite_at_time_zero_with_its_gradient():
    def total(scale):
        drift = lambda x, t, c: scale * x
        return jnp.sum(PathConstrained(PATH)(drift, Z, X, jnp.zeros(32), None))

    value, gradient = jax.value_and_grad(total)(2.0)
    assert value == 0.0
    assert gradient == 0.0


def test_gradient_is_2t_times_the_residual():
    """FACTS of the paper's remark: a factor t is left, so this is a weighted rectified flow."""
    t = jnp.full((1,), 0.3)
    x0, x1 = jnp.full((1, 1), -0.4), jnp.full((1, 1), 1.1)
    gradient = jax.grad(lambda c: PathConstrained(PATH)(lambda x, s, k: c * jnp.ones_like(x), x0, x1, t, None)[0])(0.7)
    np.testing.assert_allclose(gradient, 2 * 0.3 * (0.7 - 1.5), rtol=1e-6)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_the_exact_drift_is_stationary(name):
    """Adding small multiples of several fields to the oracle changes the mean loss only to second order."""
    objective = OBJECTIVES[name](path=PATH)
    oracle = oracles.three_modes(PATH)
    n = 200_000
    noise_key, which_key, spread_key, time_key = jax.random.split(jax.random.key(2), 4)
    which = jax.random.choice(which_key, 3, (n,), p=jnp.asarray(oracle.weights))
    x1 = jnp.asarray(oracle.means)[which]
    x1 = x1 + jnp.asarray(oracle.stds)[which][:, None] * jax.random.normal(spread_key, x1.shape)
    x0 = jax.random.normal(noise_key, x1.shape)
    t = jax.random.uniform(time_key, (n,))
    fields = [lambda x, t: jnp.ones_like(x), lambda x, t: x, lambda x, t: jnp.sin(2 * x) * t[:, None]]

    def losses(coefficients):
        drift = lambda x, t, c: (
            oracle.velocity(x, t) + sum(a * f(x, t) for a, f in zip(coefficients, fields, strict=True))
        )
        return objective(drift, x0, x1, t, None)

    zero = tuple(jnp.zeros(()) for _ in fields)
    for i in range(len(fields)):
        direction = tuple(jnp.asarray(float(i == j)) for j in range(len(fields)))
        slopes = np.asarray(jax.jvp(losses, (zero,), (direction,))[1], np.float64)
        assert abs(slopes.mean()) < 4 * slopes.std() / np.sqrt(n)
    wrong = tuple(jnp.asarray(0.5) for _ in fields)
    assert losses(wrong).mean() > losses(zero).mean()


def test_refuses_a_weight_that_is_singular():
    with pytest.raises(ValueError, match="at most 2"):
        PathConstrained(PATH, weight_exponent=2.5)
