"""Generating, encoding and noise against the flow between Gaussians, x -> m + s x."""

import jax
import jax.numpy as jnp
import numpy as np

from scoreflow_jax.ode import Solver
from scoreflow_jax.paths import LinearPath
from scoreflow_jax.sampling import encode, generate, noise_for
from tests import oracles

MEANS, STDS = [[1.0, -2.0], [-1.0, 0.5]], [0.25, 1.5]
DRIFT = oracles.class_gaussians(LinearPath(), MEANS, STDS)
SOLVER = Solver(rtol=1e-6, atol=1e-6)
LABEL = jnp.array([0, 1, 1, 0, 1])
X0 = jax.random.normal(jax.random.key(0), (5, 2))
MAPPED = np.asarray(MEANS)[np.asarray(LABEL)] + np.asarray(STDS)[np.asarray(LABEL)][:, None] * np.asarray(X0)


def test_generate_is_the_exact_map_of_each_class():
    np.testing.assert_allclose(generate(DRIFT, X0, LABEL, SOLVER).y, MAPPED, atol=1e-4)


def test_encode_inverts_it():
    np.testing.assert_allclose(encode(DRIFT, jnp.asarray(MAPPED, jnp.float32), LABEL, SOLVER).y, X0, atol=5e-4)


def test_path_holds_the_marginals_map():
    """At time t the flow is x -> t m + sqrt((1 - t)^2 + t^2 s^2) x."""
    times = jnp.array([0.0, 0.3, 0.8, 1.0])
    path = generate(DRIFT, X0, LABEL, SOLVER, times=times).path
    for t, states in zip(np.asarray(times), np.asarray(path), strict=True):
        m, s = np.asarray(MEANS)[np.asarray(LABEL)], np.asarray(STDS)[np.asarray(LABEL)][:, None]
        np.testing.assert_allclose(states, t * m + np.sqrt((1 - t) ** 2 + t**2 * s**2) * np.asarray(X0), atol=2e-4)


def test_noise_has_an_address():
    """Sample i is the same alone and in any company, differs from its neighbors, and is standard normal."""
    key = jax.random.key(7)
    many = noise_for(key, jnp.arange(2000), (4, 4, 1))
    np.testing.assert_array_equal(noise_for(key, jnp.array([5, 1999]), (4, 4, 1)), many[jnp.array([5, 1999])])
    numbers = np.asarray(many).ravel()
    assert len(np.unique(numbers)) > 0.99 * numbers.size
    assert abs(numbers.mean()) < 4 / np.sqrt(numbers.size)
    assert abs(numbers.var() - 1) < 4 * np.sqrt(2 / numbers.size)
