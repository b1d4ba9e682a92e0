"""Multistep methods against their authors' formulas, written here as they print them, and against exact solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax.multistep import METHODS
from scoreflow_jax.ode import Solver
from scoreflow_jax.paths import LinearPath
from scoreflow_jax.paths.variance_exploding import VEPath
from scoreflow_jax.paths.variance_preserving import VPPath
from scoreflow_jax.settings.solve import MULTISTEP
from tests import oracles
from tests.test_ode import counted

ORDERS = {"ab2": 2, "ab3": 3, "dpmpp_2m": 2, "unipc2": 3, "unipc3": 3}
LINEAR = LinearPath()
ORACLE = oracles.three_modes(LINEAR, dim=12)


def drift(t, x, args):
    return ORACLE.velocity(x, jnp.broadcast_to(t, x.shape[:1]))


def solver(name, steps, path=LINEAR, **more):
    return Solver(method=name, num_steps=steps, **more).along(path)


def test_every_method_is_tested():
    assert ORDERS.keys() == METHODS.keys() == set(MULTISTEP)


@pytest.mark.parametrize("name", MULTISTEP)
def test_observed_order(name):
    """Half the step, 2^-order the error, away from the ends, where the methods of data are of the first order.

    UniPC-2 is of the third order by its corrections. So is UniPC-3, which begins with lower ones.
    """
    with jax.enable_x64(True):
        y0 = jax.random.normal(jax.random.key(0), (6, 12), jnp.float64)
        exact = Solver(method="dopri8", rtol=1e-11, atol=1e-11).solve(drift, y0, 0.1, 0.9).y
        ends = [solver(name, n).solve(drift, y0, 0.1, 0.9).y for n in (80, 160)]
        errors = [float(jnp.sqrt(jnp.mean((y - exact) ** 2))) for y in ends]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(ORDERS[name], abs=0.4)


@pytest.mark.parametrize("name", MULTISTEP)
@pytest.mark.parametrize("path", [VPPath(), VEPath(sigma_min=0.01, sigma_max=20.0)], ids=["vp", "ve"])
def test_edms_grid_on_paths_that_do_not_span_its_levels(name, path):
    """Both ways: no step of length 0, at which divided differences are not finite."""
    oracle = oracles.three_modes(path, dim=4)
    field = lambda t, x, args: oracle.velocity(x, jnp.broadcast_to(t, x.shape[:1]))
    noise = path.prior_scale * jax.random.normal(jax.random.key(0), (6, 4))
    for ends in ((path.t_min, path.t_max), (path.t_max, path.t_min)):
        y0 = noise if ends[0] == path.t_min else data
        data = Solver(rtol=1e-6, atol=1e-6).solve(field, y0, *ends).y
        found = solver(name, 40, path, grid="edm").solve(field, y0, *ends).y
        assert float(jnp.sqrt(jnp.mean((found - data) ** 2) / jnp.mean(data**2))) < 0.05


@pytest.mark.parametrize("name", MULTISTEP)
def test_a_time_that_comes_twice_costs_a_call_and_nothing_else(name):
    """As a measured grid may have one: its times are rounded."""
    y0 = jax.random.normal(jax.random.key(0), (6, 12))
    exact = Solver(rtol=1e-6, atol=1e-6).solve(drift, y0, 0.0, 1.0).y
    twice = np.repeat(np.linspace(0, 1, 21), [1] + 19 * [2] + [1])
    steps = solver(name, len(twice) - 1, grid="measured").with_numbers({"parts": jnp.asarray(twice)})
    found = steps.solve(drift, y0, 0.0, 1.0)
    assert int(found.num_evaluations) == len(twice) - 1
    assert float(jnp.sqrt(jnp.mean((found.y - exact) ** 2))) < 0.05


@pytest.mark.parametrize(("name", "coefficients"), [("ab2", (3 / 2, -1 / 2)), ("ab3", (23 / 12, -16 / 12, 5 / 12))])
def test_adams_bashforth_is_the_textbooks_on_equal_steps(name, coefficients):
    """Hairer, Norsett and Wanner, III.1, eq. 1.5', after a beginning by Euler's step and the trapezoidal rule."""
    f = lambda t, y: np.cos(3 * t) - y**2
    y, h, slopes = np.float64(0.3), 0.1, []
    for k in range(6):
        t = k * h
        if name == "ab3" and k == 1:  # the first step again, with the slope at its end
            guess, y = y, 0.3 + h / 2 * (slopes[0] + f(t, y))
            slopes.insert(0, f(t, guess))
        else:
            slopes.insert(0, f(t, y))
        known = (
            {1: (1.0,), 2: (3 / 2, -1 / 2)}.get(len(slopes), coefficients) if len(slopes) < len(coefficients) else None
        )
        y = y + h * sum(c * s for c, s in zip(known or coefficients, slopes, strict=False))
    with jax.enable_x64(True):
        field = lambda t, y, args: jnp.cos(3 * t) - y**2
        found = solver(name, 6).solve(field, jnp.full((1, 1), 0.3, jnp.float64), 0.0, 0.6).y[0, 0]
    np.testing.assert_allclose(found, y, rtol=1e-12)


def levels(path, t):
    """alpha, sigma and lambda."""
    alpha, sigma = (np.float64(f(jnp.float64(t))) for f in (path.alpha, path.noise_std))
    return alpha, sigma, np.log(alpha / sigma)


def data_at(path, oracle, x, t):
    times = jnp.full(x.shape[:1], t)
    velocity = oracle.velocity(jnp.asarray(x), times)
    return np.asarray(path.convert(velocity, jnp.asarray(x), times, given="velocity", wanted="data"))


def as_published_2m(path, oracle, x, times):
    """DPM-Solver++(2M), algorithm 2 of arXiv:2211.01095."""
    past = None
    for k, (s, t) in enumerate(zip(times[:-1], times[1:], strict=True)):
        (_, sigma_s, lam_s), (alpha_t, sigma_t, lam_t) = levels(path, s), levels(path, t)
        now, h = data_at(path, oracle, x, s), lam_t - lam_s
        if k == 0:
            d = now
        else:
            r = (lam_s - levels(path, times[k - 1])[2]) / h
            d = (1 + 1 / (2 * r)) * now - 1 / (2 * r) * past
        x, past = sigma_t / sigma_s * x - alpha_t * (np.exp(-h) - 1) * d, now
    return x


def as_published_unipc(path, oracle, x, times, order):
    """UniPC on predicted data with B_2(h) = e^h - 1, arXiv:2302.04867, algorithms 5 and 6, by the authors' systems."""
    nodes, data = [], []

    def rhos(r, h, count, corrector):
        hh = -h
        phi, factorial, b = np.expm1(hh) / hh - 1, 1.0, []
        for i in range(1, count + 1):
            b.append(phi * factorial / np.expm1(hh))
            factorial *= i + 1
            phi = phi / hh - 1 / factorial
        if count == 1 and corrector:
            return np.array([0.5])
        if count == 1:
            return np.array([0.5])  # of a predictor of order 2
        return np.linalg.solve(np.array([[each**j for each in r] for j in range(count)]), np.array(b))

    guess = x
    for k, t in enumerate(times):
        now = data_at(path, oracle, guess, t)
        alpha_t, sigma_t, lam_t = levels(path, t)
        if k:
            _, sigma_s, lam_s = levels(path, nodes[0])
            h, p = lam_t - lam_s, min(order, len(nodes))
            r = [(levels(path, n)[2] - lam_s) / h for n in nodes[1:p]]
            rho = rhos([*r, 1.0], h, p, True)
            change = sum(c * (m - data[0]) / each for c, m, each in zip(rho[:-1], data[1:p], r, strict=True))
            base = sigma_t / sigma_s * x - alpha_t * np.expm1(-h) * data[0]
            x = base - alpha_t * np.expm1(-h) * (change + rho[-1] * (now - data[0]))
        nodes.insert(0, t)
        data.insert(0, now)
        last = k == len(times) - 2
        s, to = t, times[k + 1]
        (_, sigma_s, lam_s), (alpha_t, sigma_t, lam_t) = levels(path, s), levels(path, to)
        h, p = lam_t - lam_s, min(order, len(nodes))
        r = [(levels(path, n)[2] - lam_s) / h for n in nodes[1:p]]
        guess = sigma_t / sigma_s * x - alpha_t * np.expm1(-h) * data[0]
        if p > 1:
            rho = rhos(r, h, p - 1, False)
            guess = guess - alpha_t * np.expm1(-h) * sum(
                c * (m - data[0]) / each for c, m, each in zip(rho, data[1:p], r, strict=True)
            )
        if last:
            return guess
    raise AssertionError


@pytest.mark.parametrize("path", [LINEAR, VPPath()], ids=["linear", "vp"])
@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc2", "unipc3"])
def test_steps_are_the_authors(name, path):
    """Seven unequal steps between times without an end, where theirs divide by 0."""
    with jax.enable_x64(True):
        oracle = oracles.three_modes(path, dim=4)
        x = jax.random.normal(jax.random.key(1), (5, 4), jnp.float64)
        times = (0.1, 0.15, 0.3, 0.37, 0.5, 0.7, 0.8, 0.85)
        if name == "dpmpp_2m":
            theirs = as_published_2m(path, oracle, np.asarray(x), times)
        else:
            theirs = as_published_unipc(path, oracle, np.asarray(x), times, int(name[-1]))
        field = lambda t, x, a: oracle.velocity(x, jnp.broadcast_to(t, x.shape[:1]))
        ours = solver(name, 7, path, between=times[1:-1]).solve(field, x, times[0], times[-1]).y
    np.testing.assert_allclose(ours, theirs, atol=2e-6)  # the oracle has numbers in float32


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("name", MULTISTEP)
def test_a_whole_way_costs_a_call_a_step_and_ends_near(name, ends):
    """From and to the ends, at which log(alpha / sigma) is infinite; the calls are those that a real counter sees."""
    calls = []
    y0 = jax.random.normal(jax.random.key(0), (5, 12))
    start = y0 if ends[0] == 0 else Solver().solve(drift, y0, 0.0, 1.0).y
    found = jax.jit(lambda y: solver(name, 100).solve(counted(drift, calls), y, *ends))(start)
    jax.block_until_ready(found)
    assert int(found.num_evaluations) == len(calls) == 100
    assert bool(found.succeeded)
    exact = Solver(rtol=1e-6, atol=1e-6).solve(drift, start, *ends).y
    # The way to noise multiplies errors by up to 1 / 0.2, the modes' width.
    assert float(jnp.sqrt(jnp.mean((found.y - exact) ** 2))) < (0.01 if ends[0] == 0 else 0.1)


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc2"])
def test_one_step_over_the_whole_is_eulers(name):
    y0 = jax.random.normal(jax.random.key(0), (5, 12))
    euler = solver("euler", 1).solve(drift, y0, 0.0, 1.0).y
    np.testing.assert_allclose(solver(name, 1).solve(drift, y0, 0.0, 1.0).y, euler, atol=1e-5)


@pytest.mark.parametrize("name", MULTISTEP)
@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)])
def test_keeps_states_at_the_times_asked_for(name, ends):
    """At the ends, at times where steps meet and between them, for no more calls."""
    times = jnp.linspace(*ends, 8)
    y0 = jax.random.normal(jax.random.key(0), (5, 12))
    found = solver(name, 70).solve(drift, y0, *ends, times=times)
    exact = Solver(rtol=1e-6, atol=1e-6).solve(drift, y0, *ends, times=times)
    assert int(found.num_evaluations) == 70
    np.testing.assert_allclose(found.path[-1], found.y, atol=1e-4)
    np.testing.assert_allclose(found.path[0], y0, atol=1e-5)
    error = jnp.sqrt(jnp.mean((found.path - exact.path) ** 2, axis=(1, 2)))
    assert float(error.max()) < (0.02 if ends[0] == 0 else 0.15)


def test_any_pytree_and_its_arguments():
    y0 = {"a": jnp.ones((3, 2)), "b": jnp.full((3,), 2.0)}
    rates = jnp.array([0.0, 1.0, 2.0])
    field = lambda t, y, r: {"a": -r[:, None] * y["a"], "b": r}
    solution = Solver(method="ab3", num_steps=200).solve(field, y0, 0.0, 1.0, args=rates)
    np.testing.assert_allclose(solution.y["a"], np.exp(-rates)[:, None] * np.ones((3, 2)), atol=1e-5)
    np.testing.assert_allclose(solution.y["b"], 2.0 + rates, atol=1e-4)


@pytest.mark.parametrize("name", MULTISTEP)
def test_what_becomes_infinite_has_failed(name):
    found = solver(name, 4).solve(lambda t, y, a: y * jnp.where(t > 0.4, jnp.nan, 1.0), jnp.ones((2, 3)), 0.0, 1.0)
    assert not bool(found.succeeded)


def test_refusals():
    with pytest.raises(
        ValueError, match="unipc2 has no error estimate to choose its steps by: give num_steps, for example 20"
    ):
        Solver(method="unipc2")
    with pytest.raises(ValueError, match="per_sample is True, but ab2 controls no error"):
        Solver(method="ab2", num_steps=4, per_sample=True)
    with pytest.raises(ValueError, match="dpmpp_2m extrapolates the expected data"):
        Solver(method="dpmpp_2m", num_steps=4).solve(drift, jnp.ones((1, 12)), 0.0, 1.0)
