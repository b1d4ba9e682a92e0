"""Likelihoods against closed forms: Gaussians, a uniform model, and divergences of functions whose Jacobian is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from scoreflow_jax import likelihood
from scoreflow_jax.models import NCSNpp, init_parameters, make_drift
from scoreflow_jax.ode import Solver
from scoreflow_jax.paths import LinearPath
from tests import oracles

SOLVER = Solver(rtol=1e-6, atol=1e-6)
MATRIX = np.array([[0.5, 2.0, -1.0], [0.0, -1.5, 0.3], [1.0, 0.7, 0.25]], np.float32)


def linear(x):
    return x @ jnp.asarray(MATRIX).T


def probes(kind, count, size=3):
    return likelihood.draw_probes(jax.random.key(0), jnp.arange(count), (size,), kind)


def test_exact_divergence_of_a_linear_map_is_its_trace():
    value, trace = likelihood.divergence(linear, jnp.ones((2, 3)), None)
    np.testing.assert_allclose(value, np.ones((2, 3)) @ MATRIX.T, rtol=1e-6)
    np.testing.assert_allclose(trace, np.trace(MATRIX), rtol=1e-6)


def test_exact_divergence_of_more_directions_than_are_taken_at_once():
    """x -> x^3 / 3 in 130 dimensions: sum of x^2, another for each example."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 13, 10)), jnp.float32)
    _, trace = likelihood.divergence(lambda x: x**3 / 3, x, None)
    np.testing.assert_allclose(trace[:, 0], np.sum(np.square(x), axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_with_the_variance_that_theory_gives(kind):
    """Variance: 2 |S|^2 with S the symmetric part; Rademacher's leaves its diagonal out."""
    count = 40_000
    probe = probes(kind, count)
    _, estimate = likelihood.divergence(linear, jnp.zeros((count, 3)), probe)
    symmetric = (MATRIX + MATRIX.T) / 2
    counted = symmetric - np.diag(np.diag(symmetric)) if kind == "rademacher" else symmetric
    variance = 2 * np.sum(counted**2)
    estimate = np.asarray(estimate[:, 0], np.float64)
    assert abs(estimate.mean() - np.trace(MATRIX)) < 4 * np.sqrt(variance / count)
    assert estimate.var() == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("count", [2, 11])
def test_several_probes_give_each_the_estimate_that_it_gives_alone(count):
    """Also of more than are taken at once, and of images."""
    f = lambda x: jnp.sin(x) * jnp.sum(x, axis=(1, 2), keepdims=True)  # noqa: E731
    x = jax.random.normal(jax.random.key(1), (3, 2, 2))
    probe = likelihood.draw_probes(jax.random.key(0), jnp.arange(3), (2, 2), "gaussian", count)
    value, together = likelihood.divergence(f, x, probe)
    np.testing.assert_allclose(value, f(x), rtol=1e-6)
    jacobian = np.asarray(jax.vmap(jax.jacfwd(lambda x: f(x[None])[0].ravel()))(x)).reshape(3, 4, 4)
    e = np.asarray(probe).reshape(3, count, 4)
    np.testing.assert_allclose(together, np.einsum("bki,bij,bkj->bk", e, jacobian, e), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("patch", [1, 2])
def test_divergence_of_the_network_is_the_trace_of_its_jacobian(patch):
    network = NCSNpp(
        base_channels=8, channel_multipliers=(1,), num_blocks=1, attention_resolutions=(), num_classes=3, patch=patch
    )
    params = init_parameters(network, jax.random.key(0), (4, 4, 1))
    # The output layer starts near 0; a network of nothing would pass any test.
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(1), p.shape), params)
    label, t = jnp.array([0, 2]), jnp.array([0.3, 0.8])
    f = jax.jit(lambda x: make_drift(network, params)(x, t, label))
    x = jax.random.normal(jax.random.key(2), (2, 4, 4, 1))
    jacobian = jax.jit(jax.jacrev(lambda x: f(x).reshape(2, -1)))(x).reshape(2, 16, 2, 16)
    expected = [np.trace(jacobian[i, :, i]) for i in range(2)]
    np.testing.assert_allclose(jax.jit(lambda x: likelihood.divergence(f, x, None)[1][:, 0])(x), expected, rtol=1e-3)
    assert np.abs(expected).min() > 1e-2


@pytest.mark.parametrize("kind", likelihood.PROBES)
def test_log_likelihood_of_a_gaussian(kind):
    """Its exact drift has an isotropic Jacobian, so that even one probe of Rademacher's is exact."""
    mean, std = np.array([0.5, -1.0, 2.0], np.float32), 0.4
    drift = oracles.gaussian(LinearPath(), mean, std).velocity
    x = mean + std * np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    probe = None if kind == "exact" else probes(kind, 5)
    solution = likelihood.log_likelihood(drift, jnp.asarray(x), None, SOLVER, probes=probe)
    density, latents, _ = solution.y
    expected = scipy.stats.norm(mean, std).logpdf(x).sum(1)
    if kind == "gaussian":  # the probe's length is not fixed: right only in the mean
        scale = np.sum(np.square(probe[:, 0]), 1) / 3
        expected = scipy.stats.norm.logpdf(np.asarray(latents)).sum(1) + scale * (
            expected - scipy.stats.norm.logpdf(np.asarray(latents)).sum(1)
        )
    np.testing.assert_allclose(density, expected, atol=2e-3)
    np.testing.assert_allclose(latents, (x - mean) / std, atol=2e-3)


def test_log_likelihood_of_a_mixture_which_no_affine_map_makes():
    path = LinearPath()
    mixture = oracles.Mixture(path, np.array([0.3, 0.7]), np.array([[-1.0, 0.5], [1.5, 0.0]]), np.array([0.5, 0.8]))
    x = jnp.array([[-1.0, 0.4], [0.2, 0.0], [1.6, -0.9], [0.5, 2.0]])
    solution = likelihood.log_likelihood(mixture.velocity, x, None, SOLVER)
    np.testing.assert_allclose(solution.y[0], mixture.log_density(x, jnp.ones(4)), atol=2e-3)


def test_samples_come_with_the_density_that_they_are_given_afterwards():
    path = LinearPath()
    drift = oracles.class_gaussians(path, [[-1.0, 0.0], [2.0, 1.0]], [1.5, 0.5])
    labels = jnp.array([0, 1, 1])
    x0 = jax.random.normal(jax.random.key(0), (3, 2))
    density, x1, _ = likelihood.generate_with_likelihood(drift, x0, labels, SOLVER).y
    again, latents, error = likelihood.log_likelihood(drift, x1, labels, SOLVER).y
    np.testing.assert_allclose(density, again, atol=1e-3)
    np.testing.assert_array_equal(error, 0)
    np.testing.assert_allclose(latents, x0, atol=1e-3)
    std = np.array([1.5, 0.5, 0.5])[:, None]
    expected = scipy.stats.norm(np.array([[-1.0, 0.0], [2.0, 1.0], [2.0, 1.0]]), std).logpdf(x1).sum(1)
    np.testing.assert_allclose(density, expected, atol=2e-3)


@pytest.mark.parametrize(("levels", "bits"), [(256, 8.0), (17, np.log2(17))])
def test_a_uniform_model_takes_the_bits_of_its_levels(levels, bits):
    size = 12
    log_density = jnp.full((2,), -size * np.log(2.0))  # of the uniform density on [-1, 1]^12
    np.testing.assert_allclose(likelihood.bits_per_dim(log_density, size, levels), bits, rtol=1e-6)


def test_a_probe_without_a_name_is_refused():
    with pytest.raises(ValueError, match="unknown probe 'sobol', expected one of rademacher, gaussian, exact"):
        likelihood.draw_probes(jax.random.key(0), jnp.arange(1), (2,), "sobol")
    with pytest.raises(ValueError, match="got 0 probes, expected at least 1"):
        likelihood.draw_probes(jax.random.key(0), jnp.arange(1), (2,), "rademacher", 0)
