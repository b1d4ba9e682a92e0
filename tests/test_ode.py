"""Solvers against closed forms and scipy: order, reversal, agreement, and the count of evaluations against a real counter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from scoreflow_jax.ode import ERROR_FACTORS, METHODS, Solver
from scoreflow_jax.paths import LinearPath
from tests import oracles
from tests.changes import of_config

ORDERS = {"euler": 1, "heun": 2, "midpoint": 2, "bosh3": 3, "dopri5": 5, "tsit5": 5, "dopri8": 8}
ADAPTIVE = [name for name in METHODS if name != "euler"]
ORACLE = oracles.three_modes(LinearPath(), dim=12)


def test_every_method_has_its_order_here():
    assert ORDERS.keys() == METHODS.keys()


def exact_drift(t, x, args):
    """The exact drift of a mixture along the linear path, the kind of field that is solved in earnest."""
    return ORACLE.velocity(x, jnp.broadcast_to(t, x.shape[:1]))


def counted(field, calls):
    """The same field, counting how often the host really sees a call."""

    def observe(y):
        calls.append(1)
        return np.asarray(y)

    def call(t, y, args):
        y = jax.pure_callback(observe, jax.ShapeDtypeStruct(y.shape, y.dtype), y, vmap_method="expand_dims")
        return field(t, y, args)

    return call


@pytest.mark.parametrize("name", list(METHODS))
def test_observed_order(name):
    """dy/dt = (1 + 2 t) y (1 - y) has the solution logistic(logit(y0) + t + t^2); half the step, 2^-order the error."""
    order = ORDERS[name]
    with jax.enable_x64(True):
        y0 = jnp.array([[0.2, 0.7]])
        exact = jax.nn.sigmoid(jnp.log(y0 / (1 - y0)) + 2.0)
        field = lambda t, y, a: (1 + 2 * t) * y * (1 - y)
        steps = {5: (24, 48), 8: (6, 12)}.get(order, (40, 80))
        errors = [jnp.abs(Solver(method=name, num_steps=n).solve(field, y0, 0.0, 1.0).y - exact).max() for n in steps]
    # From halving a step that is not yet small, an order comes out with an error of its own; diffrax's tests allow 0.4.
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.4 if order < 8 else 0.8)


@pytest.mark.parametrize(("num_steps", "ends"), [(None, (0.0, 1.0)), (None, (1.0, 0.0)), (7, (0.0, 1.0))])
@pytest.mark.parametrize("name", list(METHODS))
def test_counts_what_a_real_counter_counts(name, num_steps, ends):
    if num_steps is None and name == "euler":
        pytest.skip("euler has no adaptive steps")
    calls = []
    solver = Solver(method=name, num_steps=num_steps, rtol=1e-4, atol=1e-4)
    y0 = jax.random.normal(jax.random.key(0), (5, 12))
    solution = jax.jit(lambda y: solver.solve(counted(exact_drift, calls), y, *ends))(y0)
    jax.block_until_ready(solution)
    assert int(solution.num_evaluations) == len(calls)
    assert bool(solution.succeeded)


def test_counts_rejected_steps_too():
    """A field with a sharp bump in time, which any first guess of the step misses."""
    calls = []
    field = counted(lambda t, y, a: y / (1e-4 + (t - 0.5) ** 2) * 0.01, calls)
    solution = jax.jit(lambda y: Solver().solve(field, y, 0.0, 1.0))(jnp.ones((2, 3)))
    jax.block_until_ready(solution)
    assert int(solution.num_rejected) > 0
    assert int(solution.num_evaluations) == len(calls)


def scipy_solve(y0, ends, tolerance):
    flow = lambda t, y: np.asarray(
        exact_drift(jnp.float32(t), jnp.asarray(y.reshape(y0.shape), jnp.float32), None)
    ).ravel()
    result = scipy.integrate.solve_ivp(flow, ends, np.asarray(y0).ravel(), rtol=tolerance, atol=tolerance)
    return result.y[:, -1].reshape(y0.shape), result.nfev


@pytest.mark.parametrize(("name", "theirs"), [("dopri5", scipy.integrate.RK45), ("bosh3", scipy.integrate.RK23)])
def test_error_estimates_are_scipys(name, theirs):
    """diffrax's own for Dopri5 is 2/3 of it: 8 % fewer steps, and a larger error, than published figures have."""
    ours = METHODS[name]().tableau.b_error * ERROR_FACTORS.get(name, 1.0)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs.E), atol=1e-12)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_dopri5_agrees_with_scipys_rk45(tolerance, ends):
    """The claim that published figures can be compared with ours: end points, and NFE within 10 % or two steps."""
    ours, theirs = [], []
    solver = Solver(rtol=tolerance, atol=tolerance)
    solve = jax.jit(lambda y: solver.solve(exact_drift, y, *ends))
    for seed in range(5):
        y0 = jax.random.normal(jax.random.key(seed), (8, 12))
        solution = solve(y0)
        expected, calls = scipy_solve(y0, ends, tolerance)
        assert np.abs(solution.y - expected).mean() < 20 * tolerance
        ours.append(int(solution.num_evaluations))
        theirs.append(calls)
    assert abs(np.mean(ours) - np.mean(theirs)) <= max(0.1 * np.mean(theirs), 12)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize(("name", "theirs"), [("dopri5", "RK45"), ("bosh3", "RK23")])
def test_every_step_is_scipys_in_float64(name, theirs, ends):
    """y' = y / 20 / (0.001 + (t - 0.6)^2): a bump, before which steps grow and at which several are rejected.

    With no rounding to hide behind, ends agree to 1e-9 only where every step does; NFE is scipy's and one more, the first stage,
    which was computed for the first step's size already.
    """
    bump = lambda t, y: y / 20 / (0.001 + (t - 0.6) ** 2)
    start = np.array([[0.2, 0.7], [0.01, 1.3]])
    with jax.enable_x64(True):
        solver = Solver(method=name, rtol=1e-4, atol=1e-4)
        solution = jax.jit(lambda y: solver.solve(lambda t, y, args: bump(t, y), y, *ends))(jnp.asarray(start))
        got = np.asarray(solution.y).ravel()
    exact = scipy.integrate.solve_ivp(bump, ends, start.ravel(), method=theirs, rtol=1e-4, atol=1e-4)
    assert int(solution.num_rejected) >= 5
    assert int(solution.num_evaluations) == exact.nfev + 1
    np.testing.assert_allclose(got, exact.y[:, -1], rtol=1e-9)


@pytest.mark.parametrize(("name", "theirs", "at"), [("dopri5", "RK45", 0.2), ("bosh3", "RK23", 0.05)])
def test_nfe_is_scipys_plus_one_for_each_trial_of_the_first_step(name, theirs, at):
    """A field that hardly moves but at a bump next to the start, onto which the first step leaps."""
    bump = lambda t, y: y * (0.01 + 20 * np.e ** (-(((t - at) / 0.02) ** 2)))
    start = np.array([[0.2, 0.7]])
    with jax.enable_x64(True):
        solver = Solver(method=name, rtol=1e-4, atol=1e-4)
        solution = solver.solve(lambda t, y, args: bump(t, y), jnp.asarray(start), 0.0, 1.0)
        got = np.asarray(solution.y).ravel()
    exact = scipy.integrate.solve_ivp(bump, (0, 1), start.ravel(), method=theirs, rtol=1e-4, atol=1e-4)
    first = getattr(scipy.integrate, theirs)(bump, 0.0, start.ravel(), 1.0, rtol=1e-4, atol=1e-4)
    before = first.nfev
    first.step()
    trials = (first.nfev - before) / first.n_stages
    assert trials == 2
    assert int(solution.num_evaluations) == exact.nfev + trials
    np.testing.assert_allclose(got, exact.y[:, -1], rtol=1e-9)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_forward_then_backward_is_the_identity(name):
    solver = Solver(method=name, rtol=1e-6, atol=1e-6)
    y0 = jax.random.normal(jax.random.key(0), (6, 12))
    there = solver.solve(exact_drift, y0, 0.0, 1.0)
    back = solver.solve(exact_drift, there.y, 1.0, 0.0)
    # The flow contracts towards modes of width 0.2, so the way back multiplies errors of 1e-6 by up to 1 / 0.2^2.
    np.testing.assert_allclose(back.y, y0, atol=5e-4)


def test_a_gaussian_stays_gaussian():
    """The exact flow from N(0, I) to N(m, s^2 I) is x -> m + s x."""
    mean = np.array([1.0, -2.0], np.float32)
    oracle = oracles.gaussian(LinearPath(), mean, 0.25)
    x0 = jax.random.normal(jax.random.key(0), (10, 2))
    field = lambda t, x, a: oracle.velocity(x, jnp.broadcast_to(t, x.shape[:1]))
    np.testing.assert_allclose(Solver().solve(field, x0, 0.0, 1.0).y, mean[None] + 0.25 * x0, atol=1e-4)


def test_any_pytree_and_its_arguments():
    """States of several leaves, and arguments that vary over the batch."""
    y0 = {"a": jnp.ones((3, 2)), "b": jnp.full((3,), 2.0)}
    rates = jnp.array([0.0, 1.0, 2.0])
    field = lambda t, y, r: {"a": -r[:, None] * y["a"], "b": r}
    solution = Solver().solve(field, y0, 0.0, 1.0, args=rates)
    np.testing.assert_allclose(solution.y["a"], np.exp(-rates)[:, None] * np.ones((3, 2)), atol=1e-5)
    np.testing.assert_allclose(solution.y["b"], 2.0 + rates, atol=1e-5)


@pytest.mark.parametrize("per_sample", [False, True])
def test_keeps_states_at_the_times_asked_for(per_sample):
    times = jnp.array([1.0, 0.5, 0.0])
    y0 = jnp.array([[1.0], [2.0]])
    solution = Solver(per_sample=per_sample).solve(lambda t, y, a: y, y0, 1.0, 0.0, times=times)
    np.testing.assert_allclose(solution.path[:, :, 0], np.exp(times - 1)[:, None] * np.array([[1.0, 2.0]]), atol=1e-4)


def test_per_sample_control_does_not_mix_examples():
    """Under it an example solved alone and in company agree to rounding; under the batch's control only to tolerance."""
    y0 = jax.random.normal(jax.random.key(0), (4, 12)) * jnp.array([1.0, 1.0, 1.0, 30.0])[:, None]
    solver = Solver(per_sample=True)
    together = solver.solve(exact_drift, y0, 0.0, 1.0)
    alone = solver.solve(exact_drift, y0[:1], 0.0, 1.0)
    np.testing.assert_allclose(together.y[:1], alone.y, atol=1e-5)
    assert together.num_evaluations[0] == alone.num_evaluations[0]
    assert len(set(np.asarray(together.num_evaluations).tolist())) > 1


def test_tighter_tolerance_is_nearer_and_dearer():
    y0 = jax.random.normal(jax.random.key(0), (8, 12))
    with jax.enable_x64(True):
        start = jnp.asarray(np.asarray(y0), jnp.float64)
        exact = np.asarray(Solver(rtol=1e-10, atol=1e-10).solve(exact_drift, start, 0.0, 1.0).y)
    solutions = [Solver(rtol=r, atol=r).solve(exact_drift, y0, 0.0, 1.0) for r in (1e-2, 1e-3, 1e-4, 1e-5)]
    errors = [float(np.abs(s.y - exact).mean()) for s in solutions]
    assert errors == sorted(errors, reverse=True)
    costs = [int(s.num_evaluations) for s in solutions]
    assert costs == sorted(costs)


@pytest.mark.parametrize(
    "field",
    [lambda t, y, a: y * jnp.nan, lambda t, y, a: y**2 * 1e3, lambda t, y, a: jnp.where(t > 0.5, jnp.nan, y)],
    ids=["nan", "blows up", "nan later"],
)
def test_a_failed_solve_says_so_soon(field):
    solution = Solver().solve(field, jnp.ones((2, 3)), 0.0, 1.0)
    assert not bool(solution.succeeded)
    assert int(solution.num_evaluations) < 3000


def test_equal_steps_to_what_is_not_finite_have_failed():
    """No step is rejected there: only the end tells."""
    assert not bool(
        Solver(method="heun", num_steps=4).solve(lambda t, y, a: y / (t - t), jnp.ones((2, 3)), 0.0, 1.0).succeeded
    )


def test_max_steps_is_a_failure():
    assert not bool(Solver(max_steps=2).solve(exact_drift, jnp.ones((2, 12)), 0.0, 1.0).succeeded)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"method": "rk45"}, "method is 'rk45', expected one of euler, heun"),
        ({"method": "euler"}, "give num_steps"),
        ({"num_steps": 0}, "at least 1"),
        ({"rtol": 0.0}, "positive"),
    ],
)
def test_refuses_settings_that_cannot_work(fields, match):
    with pytest.raises(ValueError, match=match):
        of_config(Solver, **fields)


def test_solves_without_recompiling_for_the_same_shapes():
    traces = []

    @jax.jit
    def solve(y):
        traces.append(1)
        return Solver().solve(exact_drift, y, 0.0, 1.0)

    solve(jnp.ones((2, 12)))
    solve(jnp.zeros((2, 12)))
    assert len(traces) == 1
