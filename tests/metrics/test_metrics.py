"""Metrics against closed forms."""

import numpy as np
import pytest
import scipy.linalg

from scoreflow_jax.data import Digits, read_all
from scoreflow_jax.errors import UserError
from scoreflow_jax.metrics.diversity import distances_to_sources, nearest_distance, within_class_std
from scoreflow_jax.metrics.frechet import Gaussian, Moments, frechet_distance, gaussian_of
from scoreflow_jax.metrics.recognition import FeatureRecognizer, PixelRecognizer
from scoreflow_jax.pixels import to_unit_range_host

RNG = np.random.default_rng(0)


def test_moments_are_numpys_in_any_order_of_batches():
    x = RNG.normal(size=(50, 6)) + 3
    one, other = Moments().add(x), Moments().add(x[30:]).add(x[:10]).add(x[10:30])
    for m in (one, other):
        np.testing.assert_allclose(m.mean(), x.mean(0))
        np.testing.assert_allclose(m.covariance(), np.cov(x, rowvar=False))
    whole, parts = gaussian_of(x), gaussian_of(x[::-1], batch_size=7)
    assert frechet_distance(whole, parts) == pytest.approx(0, abs=1e-10)
    np.testing.assert_allclose(parts.covariance, np.cov(x, rowvar=False))
    with pytest.raises(UserError, match="at least 2"):
        Moments().add(x[:1]).covariance()


def test_frechet_of_commuting_gaussians():
    """Diagonal covariances: |m|^2 + sum (s - r)^2."""
    s, r, m = RNG.uniform(0.1, 2, 5), RNG.uniform(0.1, 2, 5), RNG.normal(size=5)
    got = frechet_distance(Gaussian(np.zeros(5), np.diag(s**2)), Gaussian(m, np.diag(r**2)))
    assert got == pytest.approx(m @ m + np.sum((s - r) ** 2))


def test_frechet_agrees_with_the_general_matrix_square_root():
    a, b = (m @ m.T for m in RNG.normal(size=(2, 6, 6)))
    expected = np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert frechet_distance(Gaussian(np.zeros(6), a), Gaussian(np.zeros(6), b)) == pytest.approx(expected, rel=1e-6)


def test_frechet_to_itself_is_zero_also_of_a_singular_covariance():
    x = RNG.normal(size=(30, 8))
    x[:, 3] = x[:, 2]
    assert frechet_distance(gaussian_of(x), gaussian_of(x)) == pytest.approx(0, abs=1e-6)


def test_within_class_std_is_the_spread_and_not_the_distance_of_classes():
    labels = np.repeat([0, 1, 2], 2000)
    images = RNG.normal(size=(6000, 2, 2, 1)) * 0.3 + np.array([-5.0, 0.0, 7.0])[labels][:, None, None, None]
    assert within_class_std(images, labels) == pytest.approx(0.3, rel=0.03)
    assert within_class_std(np.ones((4, 2, 2, 1)), np.array([0, 0, 1, 1])) == 0
    with pytest.raises(ValueError, match="no class has two images"):
        within_class_std(images[:1], labels[:1])


def test_nearest_distance_of_copies_and_of_shifts():
    reference = RNG.normal(size=(40, 2, 2, 1)) * 100
    assert nearest_distance(reference[5:9], reference) == pytest.approx(0, abs=1e-3)
    assert nearest_distance(reference[5:9] + 0.5, reference) == pytest.approx(0.5 * 2, rel=1e-3)


def test_distances_to_sources_by_hand():
    sources = np.array([0.0, 4.0, 100.0]).reshape(3, 1, 1, 1)
    translated = sources + 1
    own, others = distances_to_sources(translated, sources, np.array([0, 0, 1]))
    assert own == 1
    assert others == pytest.approx((3 + 5) / 2)


def test_recognizer_knows_real_digits():
    train, test = (read_all(Digits(s)) for s in ("train", "test"))
    judge = PixelRecognizer(to_unit_range_host(train["image"], 17), train["label"])
    share = judge.share(to_unit_range_host(test["image"], 17), test["label"])
    assert share > 0.97
    wrong = (test["label"] + 1) % 10
    assert judge.share(to_unit_range_host(test["image"], 17), wrong) < 0.03


def test_recognizer_of_features_knows_real_digits():
    """Pixels are the features here; in other units, each its own, they say the same, since they are standardized."""
    train, test = (read_all(Digits(s)) for s in ("train", "test"))
    real, held_out = (to_unit_range_host(each["image"], 17) for each in (train, test))
    found = []
    for units in (np.ones(64, np.float32), np.geomspace(0.01, 100, 64, dtype=np.float32)):
        features = lambda images, units=units: images.reshape(len(images), -1) * units
        judge = FeatureRecognizer(features, features(real), train["label"])
        assert judge.share(held_out, test["label"]) > 0.9
        np.testing.assert_array_equal(judge.predict(held_out), judge.predict_features(features(held_out)))
        found.append(judge.predict(held_out))
    assert np.mean(found[0] == found[1]) > 0.99


def test_a_source_that_stands_there_several_times_is_not_another_one():
    sources = RNG.normal(size=(4, 2, 2, 1))
    repeated, number = np.repeat(sources, 3, axis=0), np.repeat(np.arange(4), 3)
    labels = np.zeros(12, int)
    once = distances_to_sources(sources, sources, labels[:4])
    several = distances_to_sources(repeated, repeated, labels, number)
    assert once[0] == several[0] == 0
    assert several[1] == pytest.approx(once[1])
