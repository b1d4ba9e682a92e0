"""Theorem 3.2 of the paper, by closed form: what each method of translation does between Gaussian classes."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from scoreflow_jax.ode import Solver
from scoreflow_jax.paths import LinearPath
from scoreflow_jax.sampling import translate_difference, translate_latent
from tests import oracles

SOLVER = Solver(rtol=1e-6, atol=1e-6)
KNOWN = {1.0: np.pi / 4, 0.25: 1.6743, 0.5: 1.1828, 2.0: 0.4897}  # the displacement by eq. 20; the right one is 1
ZERO, ONE = jnp.zeros(3, jnp.int32), jnp.ones(3, jnp.int32)


def displacement_of_eq_20(s: float) -> float:
    """k = integral over [0, 1] of 1 - t a(t), by quadrature."""
    a = lambda t: (t * s**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * s**2)
    return scipy.integrate.quad(lambda t: 1 - t * a(t), 0, 1)[0]


@pytest.mark.parametrize("s", KNOWN)
def test_displacements_between_gaussians_of_one_width(s):
    means = np.array([[-1.0, 0.5], [2.0, 0.0]], np.float32)
    drift = oracles.class_gaussians(LinearPath(), means, [s, s])
    images = jnp.asarray(means[0][None] + s * np.array([[0.0, 0.0], [0.7, -0.3], [-1.1, 0.4]]), jnp.float32)
    shift = means[1] - means[0]
    assert displacement_of_eq_20(s) == pytest.approx(KNOWN[s], abs=1e-4)
    latent = np.asarray(translate_latent(drift, images, ZERO, ONE, SOLVER).y - images)
    np.testing.assert_allclose(latent, np.broadcast_to(shift, (3, 2)), atol=2e-3)
    difference = np.asarray(translate_difference(drift, images, ZERO, ONE, SOLVER).y - images)
    np.testing.assert_allclose(difference, KNOWN[s] * np.broadcast_to(shift, (3, 2)), atol=2e-3)


def test_latent_matches_the_standardized_position():
    """Classes of different widths: m_2 + s_2 (x - m_1) / s_1."""
    drift = oracles.class_gaussians(LinearPath(), [[-1.0], [2.0]], [1.5, 0.5])
    images = jnp.array([[0.37], [-2.0], [1.4]])
    got = translate_latent(drift, images, ZERO, ONE, SOLVER).y
    np.testing.assert_allclose(got, 2.0 + 0.5 * (np.asarray(images) + 1.0) / 1.5, atol=1e-3)


def test_swapped_labels_do_not_undo_eq_20_but_reversed_time_does():
    """The paper's reverse translation brings 0.37 back as -1.126; the same ODE from t = 1 to 0 as 0.370."""
    drift = oracles.class_gaussians(LinearPath(), [[-1.0], [2.0]], [1.5, 0.5])
    zero, one = ZERO[:1], ONE[:1]
    there = translate_difference(drift, jnp.array([[0.37]]), zero, one, SOLVER).y
    swapped = translate_difference(drift, there, one, zero, SOLVER).y
    np.testing.assert_allclose(swapped, -1.126, atol=1e-3)
    undone = translate_difference(drift, there, zero, one, SOLVER, inverse=True).y
    np.testing.assert_allclose(undone, 0.370, atol=1e-3)


def test_latent_there_and_back_is_the_identity():
    drift = oracles.class_gaussians(LinearPath(), [[-1.0], [2.0]], [1.5, 0.5])
    images = jnp.array([[0.37], [-2.0], [1.4]])
    there = translate_latent(drift, images, ZERO, ONE, SOLVER).y
    np.testing.assert_allclose(translate_latent(drift, there, ONE, ZERO, SOLVER).y, images, atol=2e-3)


def test_path_of_latent_goes_down_to_noise_and_up_again():
    drift = oracles.class_gaussians(LinearPath(), [[-1.0], [2.0]], [1.5, 0.5])
    images, times = jnp.array([[0.5]]), jnp.array([0.0, 0.5, 1.0])
    solution = translate_latent(drift, images, ZERO[:1], ONE[:1], SOLVER, times=times)
    np.testing.assert_allclose(solution.path[0], images, atol=1e-4)
    np.testing.assert_allclose(solution.path[2], solution.path[3], atol=1e-4)
    np.testing.assert_allclose(solution.path[2], (np.asarray(images) + 1.0) / 1.5, atol=1e-3)
    np.testing.assert_allclose(solution.path[-1], solution.y, atol=1e-4)


def test_counts_are_those_of_both_legs():
    drift = oracles.class_gaussians(LinearPath(), [[-1.0], [2.0]], [1.5, 0.5])
    fixed = Solver(method="heun", num_steps=5)
    assert int(translate_latent(drift, jnp.array([[0.5]]), ZERO[:1], ONE[:1], fixed).num_evaluations) == 2 * 10
    assert int(translate_difference(drift, jnp.array([[0.5]]), ZERO[:1], ONE[:1], fixed).num_evaluations) == 10
