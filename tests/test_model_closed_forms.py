"""What a `Model` makes of labels, guidance and keys, on drifts between Gaussians, whose flows are x -> m + s x."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from scoreflow_jax.paths import DDPMPath, LinearPath, TrigonometricPath, VariancePreservingPath, VEPath, VPPath
from scoreflow_jax.programs import Generate, Translate
from scoreflow_jax.sampling import Sampler
from tests import oracles
from tests.known import known_model

RNG = np.random.default_rng(0)
MEANS, STDS = RNG.normal(size=(8, 2)), np.linspace(0.4, 1.6, 8)
FINE = {"solver__rtol": 1e-6, "solver__atol": 1e-6}


@pytest.fixture(scope="module")
def classes():
    """Class c is N(MEANS[c], STDS[c]^2 I)."""
    return known_model(oracles.class_gaussians(LinearPath(), MEANS, STDS), **FINE)


@pytest.fixture(scope="module")
def of_unit_width():
    """Class c is N(MEANS[c], I), and without a label N(0, I): guided by w the data are N(w MEANS[c], I)."""

    def drift(x, t, label):
        slope = ((2 * t - 1) / ((1 - t) ** 2 + t**2))[:, None]
        mean = jnp.zeros_like(x) if label is None else jnp.asarray(MEANS, jnp.float32)[label]
        return mean + slope * (x - t[:, None] * mean)

    return known_model(drift, **FINE)


def test_guidance_by_the_ode_moves_by_its_weight(of_unit_width):
    key, labels, weights = jax.random.key(0), np.array([0, 3, 3, 7]), np.array([0.0, 1.0, 2.0, 3.0])
    noise = np.asarray(of_unit_width.source_points(key, 4))
    wanted = noise + weights[:, None] * MEANS[labels]
    np.testing.assert_allclose(of_unit_width.generate(key, labels, guidance=weights), wanted, atol=1e-4)
    np.testing.assert_allclose(of_unit_width.generate(key, labels, guidance=2.0), noise + 2 * MEANS[labels], atol=1e-4)


def test_guidance_by_the_sde_moves_by_its_weight(of_unit_width):
    """By Euler-Maruyama: 4,000 samples of N(w m, I), w = 2.5."""
    model = of_unit_width.with_sampler(Sampler(name="euler_maruyama", num_steps=200, schedule="sigma"))
    y = model.generate(jax.random.key(1), np.full(4000, 5), guidance=2.5)
    np.testing.assert_allclose(y.mean(0), 2.5 * MEANS[5], atol=4 / np.sqrt(4000) + 0.01)
    np.testing.assert_allclose(y.std(0), 1, atol=4 / np.sqrt(8000) + 0.01)


def test_interpolation_keeps_each_pair_in_its_class(classes):
    """Latents are (x - m) / s of the pair's class, and so is what they are decoded by."""
    labels = np.array([1, 6, 4])
    mean, std = MEANS[labels], STDS[labels, None]
    first, second = (mean + std * RNG.normal(size=(3, 2)) for _ in range(2))
    got = classes.interpolate(first, second, labels, num_steps=4)
    z0, z1 = (first - mean) / std, (second - mean) / std
    for k, share in enumerate(np.linspace(0, 1, 4)):
        wanted = mean + std * (np.sqrt(1 - share) * z0 + np.sqrt(share) * z1)
        np.testing.assert_allclose(got[:, k], wanted, atol=1e-3)


@pytest.mark.parametrize("method", ["latent", "difference"])
def test_the_way_back_of_a_translation_is_open(classes, method):
    images, source, target = RNG.normal(size=(3, 2)), np.array([1, 6, 4]), np.array([2, 0, 7])
    there = classes.solve(Translate(method), images, source, target).y
    back = classes.solve(Translate(method, inverse=True), there, source, target).y
    np.testing.assert_allclose(back, images, atol=2e-3)
    if method == "latent":
        z = (images - MEANS[source]) / STDS[source, None]
        np.testing.assert_allclose(there, MEANS[target] + STDS[target, None] * z, atol=1e-3)


def test_densities_are_those_of_the_label(classes):
    x, labels = RNG.normal(size=(5, 2)), np.array([0, 1, 2, 6, 7])
    z = (x - MEANS[labels]) / STDS[labels, None]
    exact = -0.5 * np.sum(z**2, 1) - np.log(2 * np.pi) - 2 * np.log(STDS[labels])
    np.testing.assert_allclose(classes.log_likelihood(x, labels, probe="exact"), exact, atol=2e-3)


def test_ve_starts_from_noise_of_its_scale_and_has_its_density():
    """N(m, s^2 I) plus noise of deviation sigma: the flow scales x - m by sqrt(s^2 + sigma^2)."""
    mean, std, label = np.array([0.7, -0.4]), 0.6, np.zeros(5, np.int32)
    path = known_model(None, "ve").experiment.path
    oracle = oracles.gaussian(path, mean, std)
    model = known_model(lambda x, t, c: oracle.velocity(x, t), "ve", **FINE)
    start = np.asarray(model.source_points(jax.random.key(2), 5))
    ends = np.sqrt(std**2 + np.array([path.sigma(jnp.float32(t)) for t in (path.t_min, path.t_max)]) ** 2)
    y = model.decode(start, label)
    np.testing.assert_allclose(y, mean + (start - mean) * ends[1] / ends[0], atol=2e-3)
    assert start.std() == pytest.approx(path.sigma_max, rel=0.5)
    # The density of N(0, sigma_max^2 I) at the start, carried along.
    normal = -0.5 * np.sum(start**2, 1) / path.sigma_max**2 - np.log(2 * np.pi * path.sigma_max**2)
    exact = normal + 2 * np.log(ends[0] / ends[1])
    np.testing.assert_allclose(model.log_likelihood(y, label, probe="exact"), exact, atol=5e-3)


# Samples of a path that leaves noise in the data


SHARP = 0.0151  # 3.000 bits/dim of 256 levels


def sharp_model(system, path, **changes):
    """Data N(0, SHARP^2 I) on a system's path."""
    stds = np.full(8, SHARP)
    model = known_model(oracles.class_gaussians(path, np.zeros((8, 2)), stds), system, **FINE, **changes)
    return model.with_sampler(Sampler())


@pytest.fixture(scope="module")
def noisy():
    """On VP's path, which leaves noise of 0.0105 in data of 0.0151."""
    return sharp_model("vp", VPPath())


def test_samples_end_with_the_expected_data_and_decoding_does_not(noisy):
    """The solution is x = sqrt(S^2 + s^2) z with s the noise left, alpha being 1 to 1e-4, and the data S^2 / (S^2 + s^2) x."""
    key, labels = jax.random.key(0), np.array([0, 3, 7])
    latents = np.asarray(noisy.source_points(key, 3))
    path = noisy.experiment.path
    alpha, sigma = float(path.alpha(jnp.float32(path.t_max))), float(path.sigma(jnp.float32(path.t_max)))
    assert path.noise_left == pytest.approx(sigma / alpha) == pytest.approx(0.0105, rel=0.01)
    start = np.sqrt((alpha * SHARP) ** 2 + sigma**2)
    first = float(jnp.hypot(path.alpha(jnp.float32(0.0)) * SHARP, path.sigma(jnp.float32(0.0))))
    states = latents / first * start
    made, decoded = noisy.solve_samples(key, 3, labels), noisy.solve(Generate(), latents, labels)
    np.testing.assert_allclose(decoded.y, states, rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(made.y, alpha * SHARP**2 / start**2 * states, rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(noisy.encode(decoded.y, labels), latents, atol=2e-3)
    assert made.stats.evaluations[0] == decoded.stats.evaluations[0] + 1  # its own network call
    np.testing.assert_array_equal(noisy.generate(key, labels), made.y)


def test_samples_end_where_the_solution_does_without_the_last_step(noisy):
    without = noisy.with_sampler(Sampler(denoise=False))
    key, labels = jax.random.key(0), np.array([0, 3, 7])
    np.testing.assert_array_equal(without.generate(key, labels), without.decode(without.source_points(key, 3), labels))


@pytest.mark.parametrize(
    ("path", "takes"),
    [
        (VPPath(), True),
        (DDPMPath(), True),
        (VEPath(), True),
        (VariancePreservingPath(t_max=0.999), True),
        (VariancePreservingPath(), False),  # 0.6 grey levels
        (LinearPath(), False),
        (TrigonometricPath(), False),
        (LinearPath(gaussian_source=False, t_max=0.9), False),  # what is left is no noise
    ],
    ids=lambda p: type(p).__name__,
)
def test_which_paths_samples_take_the_last_step(path, takes):
    assert Sampler().denoises(path) is takes


def test_guided_samples_end_with_the_guided_data():
    """Unconditional and conditional data alike: any weight leaves the samples where they are, at two calls an evaluation."""
    conditional = oracles.class_gaussians(VPPath(), np.zeros((8, 2)), np.full(8, SHARP))
    model = known_model(
        lambda x, t, label: conditional(x, t, jnp.zeros(len(x), jnp.int32) if label is None else label), "vp", **FINE
    ).with_sampler(Sampler())
    key, labels = jax.random.key(0), np.array([0, 3, 7])
    guided = model.solve_samples(key, 3, labels, guidance=3.0)
    np.testing.assert_allclose(guided.y, model.generate(key, labels), rtol=2e-3, atol=1e-6)


def test_data_sharper_than_photographs_lose_nothing_to_the_plain_paths_end():
    """Against the data's own density, 3.000 bits/dim: at the former end, 0.999, they lost one bit, now 0.003."""
    x = SHARP * np.random.default_rng(0).normal(size=(500, 2))
    truth = scipy.stats.norm.logpdf(x, 0, SHARP).sum(1)
    lost = {}
    for t_max in (None, 0.999):
        path = VariancePreservingPath() if t_max is None else VariancePreservingPath(t_max=t_max)
        model = sharp_model("interpolant", path, path__name="variance_preserving", path__t_max=t_max)
        found = model.log_likelihood(x, np.zeros(500, np.int32), probe="exact")
        lost[t_max] = float(np.mean(truth - found)) / 2 / np.log(2)
    assert abs(lost[None]) < 0.01
    assert lost[0.999] == pytest.approx(1.0, abs=0.03)
