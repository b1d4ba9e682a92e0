"""The stable form of the loss is algorithm 1's, its weights are the family's, and its minimizer is the exact drift."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from scoreflow_jax.objectives import OBJECTIVES, PathConstrained
from scoreflow_jax.paths import PATHS, LinearPath, TrigonometricPath
from tests import oracles
from tests.changes import of_config

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


@pytest.mark.parametrize("name", [name for name, kind in OBJECTIVES.items() if not kind.two_times])
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


@pytest.mark.parametrize(("weight", "kind"), [("noise", "noise"), ("data", "data"), ("velocity", "velocity")])
@pytest.mark.parametrize("name", ["linear", "trigonometric", "vp"])
def test_a_weight_by_name_is_the_squared_error_of_that_prediction(name, weight, kind):
    path, t = PATHS[name](), jnp.linspace(0.1, 0.9, 32)
    x_t = path.interpolant(t, Z, X)
    f = some_drift(x_t, t, None)
    truth = {"noise": Z, "data": X, "velocity": path.velocity(t, Z, X)}[kind]
    error = path.convert(f, x_t, t, given="velocity", wanted=kind) - truth
    got = PathConstrained(path, weight=weight)(some_drift, Z, X, t, None)
    np.testing.assert_allclose(got, jnp.mean(error**2, axis=(1, 2, 3)), rtol=1e-3)


def test_noise_prediction_is_p_0_on_the_straight_path():
    losses = [
        PathConstrained(PATH, **how)(some_drift, Z, X, T, None)
        for how in ({"weight_exponent": 0.0}, {"weight": "noise"})
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_the_logit_normal_weight_is_that_density():
    t = np.linspace(0.1, 0.9, 32)
    expected = scipy.stats.norm.pdf(np.log(t / (1 - t))) / (t * (1 - t))
    flat = PathConstrained(PATH, weight="velocity")(some_drift, Z, X, jnp.asarray(t, jnp.float32), None)
    got = PathConstrained(PATH, weight="logit_normal")(some_drift, Z, X, jnp.asarray(t, jnp.float32), None)
    np.testing.assert_allclose(got / flat, expected, rtol=1e-4)


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 3])
def test_several_steps_are_eq_19_as_printed(method, steps):
    """x(t) by steps written out in NumPy, and the gradient through all of them by differences."""

    def x_of(scale, i):
        x, t, h = np.asarray(Z[i], np.float64), float(T[i]), float(T[i]) / steps
        f = lambda x, s: np.sin(scale * x) + s * x
        for k in range(steps):
            slope = f(x, k * h)
            if method == "heun":
                slope = (slope + f(x + h * slope, (k + 1) * h)) / 2
            x = x + h * slope
        return np.mean((x - ((1 - t) * np.asarray(Z[i]) + t * np.asarray(X[i]))) ** 2) / t  # p = 1

    objective = PathConstrained(PATH, num_steps=steps, method=method)
    drift = lambda scale: lambda x, t, c: jnp.sin(scale * x) + t[:, None, None, None] * x
    got = objective(drift(3.0), Z, X, T, None)
    np.testing.assert_allclose(got, [x_of(3.0, i) for i in range(32)], rtol=1e-4)
    slopes = jax.jacrev(lambda scale: objective(drift(scale), Z, X, T, None))(3.0)
    h = 1e-5
    np.testing.assert_allclose(
        slopes, [(x_of(3 + h, i) - x_of(3 - h, i)) / (2 * h) for i in range(32)], rtol=1e-3, atol=1e-4
    )


def test_many_steps_have_another_minimizer_the_mean():
    """x1 ~ N(m, s^2) independent of x0: carrying every x0 straight to m costs t s^2, and the exact drift of the flow more."""
    m, s, n = 1.5, 0.5, 20_000
    t = jnp.linspace(0.1, 1.0, n)
    x0, x1 = jax.random.normal(KEYS[2], (n, 1)), m + s * jax.random.normal(KEYS[3], (n, 1))
    objective = PathConstrained(PATH, num_steps=32)
    flow = oracles.gaussian(PATH, [m], s)
    to_mean = lambda x, t, c: (m - x) / jnp.maximum(1 - t, 1e-3)[:, None]
    exact = lambda x, t, c: flow.velocity(x, t)
    collapsed, kept = (np.asarray(objective(f, x0, x1, t, None)) for f in (to_mean, exact))
    np.testing.assert_allclose(collapsed.mean(), float(jnp.mean(t)) * s**2, rtol=0.05)
    # The exact flow is x0 -> t m + v x0, v^2 = (1 - t)^2 + t^2 s^2: (v - (1 - t))^2 / t more.
    v = np.sqrt((1 - t) ** 2 + t**2 * s**2)
    np.testing.assert_allclose(kept.mean() - collapsed.mean(), np.mean((v - (1 - t)) ** 2 / t), rtol=0.1)
    # Algorithm 1's one step prefers the exact drift.
    one = PathConstrained(PATH)
    assert np.mean(one(exact, x0, x1, t, None)) < np.mean(one(to_mean, x0, x1, t, None)) - 0.05


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"weight": "snr"}, "weight is 'snr', expected one of power"),
        ({"method": "rk4"}, "method is 'rk4', expected one of euler, heun"),
        ({"num_steps": -1}, "num_steps is -1"),
        ({"num_steps": 2, "path": TrigonometricPath()}, "eq. 19 is of the straight path"),
    ],
)
def test_refuses_what_means_nothing(how, match):
    with pytest.raises(ValueError, match=match):
        of_config(PathConstrained, **{"path": PATH, **how})
