"""Grids of fixed steps: EDM's noise levels, equal parts of an error, stated times."""

import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax.grids import PARTS, Steps, edm_sigma, equal_parts
from scoreflow_jax.ode import Solver
from scoreflow_jax.paths import LinearPath
from scoreflow_jax.paths.variance_exploding import VEPath
from scoreflow_jax.paths.variance_preserving import VPPath
from tests.changes import of_config


def times(grid, count, t0=0.0, t1=1.0, path=None, parts=None):
    steps = Steps(count, parts, t0, t1, grid, path=path)
    return np.array([steps(k) for k in range(count + 1)])


def test_edms_levels_are_its_papers():
    """Eq. 5 with rho = 7, from 80 to 0.002: of 18 steps, the first, second and last levels by hand, and then 0."""
    found = np.asarray(edm_sigma(np.arange(19), 18))
    np.testing.assert_allclose(found[[0, 17, 18]], [80.0, 0.002, 0.0], rtol=1e-4)
    second = (80 ** (1 / 7) + (0.002 ** (1 / 7) - 80 ** (1 / 7)) / 17) ** 7
    np.testing.assert_allclose(found[1], second, rtol=1e-5)
    assert (np.diff(found) < 0).all()


def test_edms_times_are_where_noise_is_at_its_levels():
    """t = 1 / (1 + sigma) on the linear path, but for the first, which is 0; the other way round on the way back."""
    found = times("edm", 10)
    np.testing.assert_allclose(found[1:-1], 1 / (1 + np.asarray(edm_sigma(np.arange(1, 10), 10))), rtol=1e-6)
    assert (found[0], found[-1]) == (0.0, 1.0)
    np.testing.assert_allclose(times("edm", 10, 1.0, 0.0), found[::-1], rtol=1e-6)
    np.testing.assert_allclose(times("edm", 10, path=LinearPath()), found, atol=1e-6)


@pytest.mark.parametrize(
    ("path", "first", "last"),
    [(VPPath(), 80.0, 0.01049), (VEPath(), 80.0, 0.02), (VEPath(sigma_min=0.01, sigma_max=20.0), 20.0, 0.01)],
)
def test_edms_times_on_a_path_that_does_not_span_its_levels(path, first, last):
    """They go from the noisier of 80 and the path's own beginning to the path's own end, by eq. 5, and none comes twice."""
    found = times("edm", 20, path.t_min, path.t_max, path)
    assert (np.diff(found) > 0).all()
    np.testing.assert_allclose(times("edm", 20, path.t_max, path.t_min, path), found[::-1], atol=1e-6)
    ratio = np.asarray(path.noise_std(jnp.asarray(found[1:])) / path.alpha(jnp.asarray(found[1:])))
    known = (first ** (1 / 7) + np.arange(1, 21) / 20 * (last ** (1 / 7) - first ** (1 / 7))) ** 7
    np.testing.assert_allclose(ratio, known, rtol=2e-3)


def test_equal_parts_do_not_depend_on_the_steps_that_found_them():
    """Local errors (h r(t))^3 of a rate r(t) = 1 + 2 t, whose integral over the whole is 2: t + t^2 = 2 u."""
    for ends in (np.linspace(0, 1, 301)[1:], np.linspace(0, 1, 301)[1:] ** 2):
        starts = np.concatenate([[0.0], ends[:-1]])
        errors = ((ends - starts) * (1 + starts + ends)) ** 3
        found = equal_parts(ends, errors)
        u = np.arange(PARTS + 1) / PARTS
        np.testing.assert_allclose(found, (-1 + np.sqrt(1 + 8 * u)) / 2, atol=1e-3)


def test_measured_times_cut_the_parts_evenly():
    parts = np.linspace(0, 1, PARTS + 1) ** 2
    np.testing.assert_allclose(times("measured", PARTS // 2, parts=parts), parts[::2], atol=1e-6)
    np.testing.assert_allclose(times("measured", PARTS // 2, 1.0, 0.0, parts=parts), parts[::-2], atol=1e-6)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("how", [{"grid": "edm"}, {"between": (0.1, 0.2, 0.7)}])
def test_a_runge_kutta_method_steps_from_time_to_time(how, ends):
    """Heun's method written out, at the times of the grid; two calls a step."""
    field = lambda t, y: jnp.cos(3 * t) * y
    solver = Solver(method="heun", num_steps=4, **how)
    y = jnp.full((1, 1), 0.7)
    found = solver.solve(lambda t, y, args: field(t, y), y, *ends)
    meet = (
        [*ends[:1], *(how["between"][:: 1 if ends[1] else -1]), ends[1]] if "between" in how else times("edm", 4, *ends)
    )
    for t, s in zip(meet[:-1], meet[1:], strict=True):
        first = field(t, y)
        y = y + (s - t) / 2 * (first + field(s, y + (s - t) * first))
    np.testing.assert_allclose(found.y, y, rtol=1e-6)
    assert int(found.num_evaluations) == 8


def test_a_grid_that_nobody_measured_is_refused():
    with pytest.raises(ValueError, match="the grid 'measured' is that of a model"):
        Solver(method="ab2", num_steps=3, grid="measured").solve(lambda t, y, args: y, jnp.ones((1, 1)), 0.0, 1.0)


def test_local_errors_are_those_of_the_control():
    """Every accepted step ends where the next begins, the last at the end, with an error below the tolerance."""
    field = lambda t, y, args: y * 0.05 / (0.01 + (t - 0.5) ** 2)
    solver = Solver(method="bosh3", rtol=1e-3, atol=1e-3, max_steps=200)
    ends, errors, solution = solver.local_errors(field, jnp.ones((2, 3)), 0.0, 1.0)
    made = int(np.flatnonzero(errors)[-1]) + 1
    assert ends[made - 1] == 1.0
    assert (np.diff(ends[:made]) > 0).all()
    assert (np.asarray(errors[:made]) < 1).all()
    assert int(solution.num_evaluations) == int(solver.solve(field, jnp.ones((2, 3)), 0.0, 1.0).num_evaluations)
    # The bump in the middle is where equal parts are short.
    parts = equal_parts(np.asarray(ends[:made]), np.asarray(errors[:made]))
    assert 0.35 < parts[np.argmin(np.diff(parts))] < 0.65


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"grid": "edm"}, "grid is 'edm', of num_steps steps: give num_steps"),
        ({"grid": "edm", "num_steps": 2, "between": (0.5,)}, "between states the times: give one of them"),
        ({"grid": "karras", "num_steps": 2}, "grid is 'karras', expected one of uniform, edm, measured"),
    ],
)
def test_refusals(fields, match):
    with pytest.raises(ValueError, match=match):
        of_config(Solver, **fields)
