"""Every path: boundary values, velocity by finite differences, conversions, and the oracles' velocity and score."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax.paths import PATHS, LinearPath
from tests import oracles

AFFINE = [cls() for cls in PATHS.values()]
KINDS = ("velocity", "data", "noise", "score")
F32 = 2e-5  # a few float32 roundings of numbers of order one
KEYS = jax.random.split(jax.random.key(0), 3)
X0, X1 = (jax.random.normal(k, (16, 4)) for k in KEYS[:2])
T = jnp.linspace(0.05, 0.95, 16)


@pytest.mark.parametrize("path", AFFINE)
def test_ends_are_source_and_data(path):
    np.testing.assert_allclose(path.interpolant(jnp.zeros(16), X0, X1), X0, atol=F32)
    np.testing.assert_allclose(path.interpolant(jnp.ones(16), X0, X1), X1, atol=F32)


@pytest.mark.parametrize("path", AFFINE)
def test_velocity_is_the_time_derivative(path):
    with jax.enable_x64(True):
        x0, x1, t = (jnp.asarray(np.asarray(a), jnp.float64) for a in (X0, X1, T))
        h = 1e-5
        difference = (path.interpolant(t + h, x0, x1) - path.interpolant(t - h, x0, x1)) / (2 * h)
        np.testing.assert_allclose(path.velocity(t, x0, x1), difference, atol=1e-8)


def test_linear_path_is_the_papers():
    np.testing.assert_allclose(LinearPath().interpolant(T, X0, X1), (1 - T)[:, None] * X0 + T[:, None] * X1, atol=F32)
    np.testing.assert_allclose(LinearPath().velocity(T, X0, X1), X1 - X0, atol=F32)


@pytest.mark.parametrize("path", AFFINE)
@pytest.mark.parametrize(("source", "target"), list(itertools.product(KINDS, KINDS)))
def test_conversions_agree_with_the_mixture(path, source, target):
    """Posterior means of a mixture, converted into each other: nothing here knows the 2x2 solve."""
    oracle = oracles.three_modes(path)
    data, noise = oracle.data_and_noise(X0, T)
    truth = {"velocity": oracle.velocity(X0, T), "data": data, "noise": noise, "score": oracle.score(X0, T)}
    got = path.convert(truth[source], X0, T, source=source, target=target)
    # Near t = 1 the data hardly depend on the noise (and the reverse near 0): the solve loses up to 1 / 0.05 digits.
    np.testing.assert_allclose(got, truth[target], atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("path", AFFINE)
def test_score_needs_a_gaussian_source(path):
    other = type(path)(gaussian_source=False)
    with pytest.raises(ValueError, match="no score"):
        other.convert(X0, X0, T, source="velocity", target="score")


@pytest.mark.parametrize("path", AFFINE)
def test_source_is_standard_normal(path):
    x = np.asarray(path.sample_source(jax.random.key(3), (200_000, 1)))
    standard_error = 1 / np.sqrt(len(x))
    assert abs(x.mean()) < 4 * standard_error
    assert abs(x.var() - 1) < 4 * np.sqrt(2) * standard_error
