"""DDPM's bound: equal to the density where the chain is undone exactly, below it elsewhere, and by how much."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from scoreflow_jax.chain_bound import Cells, _log_mass, chain_bound
from scoreflow_jax.paths import DDPMPath
from scoreflow_jax.pixels import Scaling
from scoreflow_jax.sampling import sample_keys
from tests import oracles

FEW = DDPMPath(num_scales=50, beta_first=1e-3, beta_last=0.3)
SHORT = DDPMPath(
    num_scales=8, beta_first=0.05, beta_last=0.25
)  # whose noisiest state keeps a quarter of the data's variance


def exact(oracle):
    def predict(kind, x, t, condition):
        data, noise = oracle.data_and_noise(x, t)
        return {"data": data, "noise": noise}[kind]

    return predict


def bounds(oracle, x, **how):
    keys = sample_keys(jax.random.key(0), np.arange(len(x)))
    run = jax.jit(lambda x, keys: chain_bound(exact(oracle), oracle.path, x, None, keys, **how))
    solution = run(jnp.asarray(x, jnp.float32), keys)
    return np.asarray(solution.y[0], np.float64), np.asarray(solution.y[1]), int(solution.num_evaluations)


def mean_and_error(values):
    return values.mean(), values.std(ddof=1) / np.sqrt(len(values))


def test_of_standard_noise_with_the_forward_variance_it_is_the_density():
    """Every x_i is N(0, I), and the chain's steps back are the true ones: no gap at any point."""
    x = np.repeat(np.random.default_rng(0).normal(size=(4, 3)), 500, axis=0)
    value, _, calls = bounds(oracles.gaussian(FEW, np.zeros(3, np.float32), 1.0), x, variance="forward")
    assert calls == 50
    gap = (value - scipy.stats.norm.logpdf(x).sum(1)).reshape(4, 500)
    for values in gap:
        mean, error = mean_and_error(values)
        assert abs(mean) < 4 * error
        assert error < 0.15


def test_what_a_short_chain_leaves_of_the_data_is_counted():
    """alpha^2 = 0.26 at the end: KL(q(x_N | x) | N(0, I)) is about a nat here, and still there is no gap."""
    alpha2 = np.prod(1 - np.linspace(0.05, 0.25, 8))
    points = np.array([[1.5, 1.5, -1.5], [2.0, -1.0, 2.5]])
    value, _, _ = bounds(
        oracles.gaussian(SHORT, np.zeros(3, np.float32), 1.0), np.repeat(points, 2000, axis=0), variance="forward"
    )
    gap = (value.reshape(2, 2000) - scipy.stats.norm.logpdf(points).sum(1)[:, None]).T
    error = gap.std(0, ddof=1) / np.sqrt(2000)
    left_out = 0.5 * (alpha2 * np.sum(points**2, 1) + 3 * (-alpha2 - np.log(1 - alpha2)))
    assert np.all(np.abs(gap.mean(0)) < 4 * error)
    assert np.all(left_out > 8 * error)


def test_with_the_posterior_variance_the_gap_is_known():
    """Of N(0, I): sum over steps of d/2 (r - 1 - log r), r the variance of the true step over the chain's."""
    x = np.random.default_rng(0).normal(size=(4000, 3))
    value, _, _ = bounds(oracles.gaussian(FEW, np.zeros(3, np.float32), 1.0), x, variance="posterior")
    betas = np.linspace(1e-3, 0.3, 50)
    product = np.cumprod(1 - betas)
    r = (1 - product[1:]) / (1 - product[:-1])  # beta / (beta (1 - product_before) / (1 - product))
    gap, error = mean_and_error(scipy.stats.norm.logpdf(x).sum(1) - value)
    assert gap == pytest.approx(1.5 * np.sum(r - 1 - np.log(r)), abs=4 * error)
    assert error < 0.2


def test_steps_drawn_at_random_have_the_same_mean():
    oracle = oracles.gaussian(FEW, np.full(3, 0.3, np.float32), 0.5)
    x = np.repeat([[0.1, 0.5, -0.2]], 2000, axis=0)
    whole, _, _ = bounds(oracle, x)
    some, error, calls = bounds(oracle, x, num_calls=22, replicates=2)
    assert calls == 22
    assert some.std() / np.sqrt(2) < 1.2 * np.sqrt(np.mean(error**2)) * np.sqrt(2)
    difference = np.hypot(mean_and_error(whole)[1], mean_and_error(some)[1])
    assert abs(whole.mean() - some.mean()) < 4 * difference


def test_grey_levels_have_probabilities():
    """17 levels, all as likely: with the exact denoiser the bound is just below -log 17."""
    path = DDPMPath()
    levels = np.arange(17)
    cells, values = Cells.of(17), Scaling(17).to_images(levels)
    oracle = oracles.Mixture(
        path, np.full(17, 1 / 17, np.float32), values[:, None].astype(np.float32), np.zeros(17, np.float32)
    )
    x = np.repeat(values, 100)[:, None]
    mean, error = mean_and_error(bounds(oracle, x, cells=cells)[0])
    assert (
        -np.log(17) - 0.25 < mean < -np.log(17) + 4 * error
    )  # a thousand steps leave a gap of 0.16 ± 0.01, by 6,800 chains
    assert error < 0.03


@pytest.mark.parametrize("levels", [17, 256])
def test_cells_meet_in_the_middle(levels):
    values = Scaling(levels).to_images(np.arange(levels))
    assert 2 * Cells.of(levels).half_width == pytest.approx(values[1] - values[0], rel=1e-5)


def test_mass_between_two_points_in_the_tails_too():
    low, high = (
        np.array([-3.0, 0.1, 5.0, 12.0, -np.inf, 2.0, -0.01]),
        np.array([-1.0, 0.2, 6.0, 12.5, -9.0, np.inf, 0.01]),
    )
    with jax.enable_x64(True):
        wanted = np.log(-np.expm1(scipy.special.log_ndtr(-high[2:4]) - scipy.special.log_ndtr(-low[2:4])))
        wanted = wanted + scipy.special.log_ndtr(-low[2:4])
    got = np.asarray(_log_mass(jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32)))
    np.testing.assert_allclose(got[2:4], wanted, rtol=1e-4)
    others = [0, 1, 4, 5, 6]
    expected = np.log(scipy.stats.norm.cdf(high[others]) - scipy.stats.norm.cdf(low[others]))
    np.testing.assert_allclose(got[others], expected, rtol=2e-4)


def test_mistakes_are_said():
    oracle = oracles.gaussian(FEW, np.zeros(1, np.float32), 1.0)
    with pytest.raises(ValueError, match="variance is 'learned', expected one of posterior, forward"):
        bounds(oracle, np.zeros((1, 1)), variance="learned")
    with pytest.raises(ValueError, match="num_calls is 7, expected 2 to 50 for each of the 2 replicates"):
        bounds(oracle, np.zeros((1, 1)), num_calls=7, replicates=2)
