"""Score and log density of smoothed points against float64 over all pairs, and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from scoreflow_jax.sampling.kernel_score import Blocks, smoothed_density

SMALL = Blocks(rows=32, columns=48)


def points(n, m, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)).astype(np.float32), rng.normal(size=(m, d)).astype(np.float32)


def by_all_pairs(x, y, bandwidth, exclude_self=False):
    x, y = x.astype(np.float64), y.astype(np.float64)
    exponents = -0.5 * np.sum((x[:, None] - y[None]) ** 2, -1) / bandwidth**2
    if exclude_self:
        np.fill_diagonal(exponents, -np.inf)
    score = (softmax(exponents, axis=1) @ y - x) / bandwidth**2
    constant = np.log(len(y) - exclude_self) + 0.5 * x.shape[1] * np.log(2 * np.pi * bandwidth**2)
    return score, logsumexp(exponents, axis=1) - constant


@pytest.mark.parametrize(
    ("n", "m", "blocks"),
    [(1, 1, Blocks()), (33, 97, SMALL), (64, 96, SMALL), (100, 300, Blocks()), (40, 70, Blocks(rows=1, columns=1))],
)
def test_agrees_with_all_pairs_however_cut(n, m, blocks):
    x, y = points(n, m, 6)
    score, log_density = smoothed_density(x, y, 0.7, blocks=blocks)
    exact, exact_log = by_all_pairs(x, y, 0.7)
    np.testing.assert_allclose(score, exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(log_density, exact_log, rtol=1e-5, atol=1e-5)


def test_leaves_out_each_its_own():
    _, y = points(0, 70, 3)
    x = y + 0.1
    score, log_density = smoothed_density(x, y, 0.3, exclude_self=True, blocks=SMALL)
    exact, exact_log = by_all_pairs(x, y, 0.3, exclude_self=True)
    np.testing.assert_allclose(score, exact, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(log_density, exact_log, rtol=1e-5, atol=1e-5)


def test_score_is_the_gradient_of_the_log_density():
    x, y = points(20, 130, 4)
    density = lambda x: jnp.sum(smoothed_density(x, y, 0.5, blocks=SMALL).log_density)
    np.testing.assert_allclose(
        smoothed_density(x, y, 0.5, blocks=SMALL).score, jax.grad(density)(jnp.asarray(x)), rtol=1e-4, atol=1e-4
    )


def test_data_far_from_the_origin():
    """An offset of 1000, of which float32 leaves 6e-5 of a coordinate, costs nothing beyond that."""
    x, y = points(40, 200, 5)
    x, y = x + np.float32(1000), y + np.float32(1000)
    score, log_density = smoothed_density(x, y, 0.4, blocks=SMALL)
    exact, exact_log = by_all_pairs(x, y, 0.4)
    np.testing.assert_allclose(score, exact, rtol=1e-4, atol=2e-3)  # of the mean, rounded to 6e-5, over 0.16
    np.testing.assert_allclose(log_density, exact_log, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("bandwidth", [1e-2, 1e-3])
def test_tiny_bandwidths_go_to_the_nearest_point(bandwidth):
    x, y = points(50, 200, 3)
    score, log_density = smoothed_density(x, y, bandwidth, blocks=SMALL)
    exact, exact_log = by_all_pairs(x, y, bandwidth)
    off = 3e-7 * 9 / bandwidth**2  # an exponent's rounding
    np.testing.assert_allclose(score * bandwidth**2, exact * bandwidth**2, atol=1e-5 + 0.01 * off)
    np.testing.assert_allclose(log_density, exact_log, rtol=1e-5, atol=off)


def test_points_far_from_all_data():
    x, y = points(10, 200, 3)
    x = x + np.float32(300)
    score, log_density = smoothed_density(x, y, 0.5, blocks=SMALL)
    exact, exact_log = by_all_pairs(x, y, 0.5)
    np.testing.assert_allclose(score, exact, rtol=1e-4)
    np.testing.assert_allclose(log_density, exact_log, rtol=1e-5)


def test_images_keep_their_shape():
    x, y = points(6, 9, 8)
    images = smoothed_density(x.reshape(6, 2, 2, 2), y.reshape(9, 2, 2, 2), 0.6)
    np.testing.assert_allclose(images.score.reshape(6, 8), by_all_pairs(x, y, 0.6)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("n", "m", "exclude", "match"),
    [(3, 4, True, "as many of each"), (1, 1, True, "two at least"), (3, 0, False, "no points")],
)
def test_refuses_what_has_no_density(n, m, exclude, match):
    x, y = points(n, m, 2)
    with pytest.raises(ValueError, match=match):
        smoothed_density(x, y, 1.0, exclude_self=exclude)
    with pytest.raises(ValueError, match="expected the same"):
        smoothed_density(x, points(1, 5, 3)[1], 1.0)
