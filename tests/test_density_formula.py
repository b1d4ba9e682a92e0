"""The density formula against exact densities, the ODE's likelihood, and figures of a score that is known to be wrong."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from scoreflow_jax import likelihood
from scoreflow_jax.density_formula import (
    STANDARD,
    DensityFormula,
    Reference,
    _draw_levels,
    formula_log_density,
    level_range,
    tabulate,
    tail,
)
from scoreflow_jax.ode import Solver
from scoreflow_jax.paths import (
    LinearPath,
    SubVPPath,
    TrigonometricPath,
    VariancePreservingPath,
    VEPath,
    VPPath,
)
from scoreflow_jax.sampling import sample_keys
from tests import oracles

PLAIN = {"levels": "uniform", "placement": "independent", "antithetic": False}
PATHS = [
    LinearPath(),
    TrigonometricPath(),
    VariancePreservingPath(),
    VPPath(),
    SubVPPath(),
    VEPath(),
    LinearPath(latent="sine", latent_scale=0.7),
]


def predictor(path, noise_of):
    """What a network on the path would say, from the expected noise."""

    def predict(kind, x, t, condition):
        noise = noise_of(x, t)
        return noise if kind == "noise" else path.convert(noise, x, t, given="noise", wanted=kind)

    return predict


def exact(oracle):
    return predictor(oracle.path, lambda x, t: oracle.data_and_noise(x, t)[1])


def keys_of(count, seed=0):
    return sample_keys(jax.random.key(seed), np.arange(count))


def estimate(predict, path, x, formula, seed=0, **more):
    run = jax.jit(lambda x, keys: formula_log_density(predict, path, x, None, keys, formula, **more))
    solution = run(jnp.asarray(x, jnp.float32), keys_of(len(x), seed))
    return np.asarray(solution.y[0], np.float64), np.asarray(solution.y[1], np.float64), int(solution.num_evaluations)


def draws_of(oracle, count, seed=0):
    rng = np.random.default_rng(seed)
    which = rng.choice(len(oracle.weights), count, p=oracle.weights / oracle.weights.sum())
    return oracle.means[which] + oracle.stds[which, None] * rng.normal(size=(count, oracle.means.shape[1]))


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__ + "_latent" * p.has_latent)
def test_a_mixture_on_every_path(path):
    """The mean of its z-scores and their size; the paths keep a little noise in the data, VE the most."""
    oracle = oracles.three_modes(path)
    x = draws_of(oracle, 64)
    value, error, calls = estimate(exact(oracle), path, x, DensityFormula(num_calls=1024))
    assert calls == 1024
    truth = np.asarray(oracle.log_density(jnp.asarray(x, jnp.float32), jnp.full(64, path.t_max)))
    off = (value - truth) / error
    assert np.abs(off.mean()) < 4 / 8 + (0.5 if isinstance(path, VEPath) else 0.0)
    assert np.sqrt(np.mean(off**2)) < 1.6  # of a t-distribution with 7 degrees of freedom 1.18
    assert np.mean(error) < 0.25


@pytest.mark.parametrize(
    ("path", "variance", "missing"),
    [
        (VPPath(), 0.25, 0.28),
        (VEPath(), 0.25, 0.73),
        (VariancePreservingPath(t_max=0.999), 0.25, 1.634),
        (LinearPath(), 0.25, 0.0),
        (VPPath(), 0.02**2, 0.04),  # a reference almost as sharp
    ],
    ids=lambda p: type(p).__name__,
)
def test_what_lies_beyond_the_last_level_of_sharp_data(path, variance, missing):
    """Data N(0, 0.0151^2), of 3.000 bits/dim: the formula is so many bits short, and (3) says so."""
    width, size = 0.0151, 16
    x = width * np.random.default_rng(0).normal(size=(64, size))
    oracle = oracles.gaussian(path, np.zeros(size), width)
    formula = DensityFormula(num_calls=1024, tail=True)
    run = jax.jit(
        lambda x, keys: formula_log_density(
            exact(oracle), path, x, None, keys, formula, reference=Reference(0.0, variance)
        )
    )
    solution = run(jnp.asarray(x, jnp.float32), keys_of(64))
    value, error, share = (np.asarray(v, np.float64) for v in solution.y)
    assert int(solution.num_evaluations) == 1024 + 16
    beyond, beyond_error = tail(share, x, path, "gaussian", Reference(0.0, variance))
    noise = np.exp(-level_range(path)[1])
    closed = 0.5 * np.log((1 + noise / width**2) / (1 + noise / variance))
    closed += 0.5 * (width**2 / variance - 1) * noise / (noise + variance)
    assert abs(closed / np.log(2) - missing) < 0.006
    assert abs(beyond - closed) < 4 * beyond_error + 1e-6
    assert beyond_error < 0.03
    off = (scipy.stats.norm.logpdf(x, 0, width).sum(1) - value) / size
    scatter = np.sqrt(np.mean(error**2) / 64) / size
    assert abs(off.mean() - beyond) < 4 * (scatter + beyond_error)


def test_what_lies_beyond_is_no_less_than_is_said():
    """Data that are no Gaussian, half of them ten times as sharp: (3) is a part of what is missing, not more."""
    path, size = VPPath(), 8
    oracle = oracles.Mixture(
        path, np.array([0.5, 0.5], np.float32), np.zeros((2, size), np.float32), np.array([0.01, 0.1], np.float32)
    )
    x = jnp.asarray(draws_of(oracle, 8000), jnp.float32)
    formula = DensityFormula(num_calls=64, tail=True)
    run = jax.jit(lambda x, keys: formula_log_density(exact(oracle), path, x, None, keys, formula).y)
    value, _, share = (np.asarray(v, np.float64) for v in run(x, keys_of(len(x))))
    beyond, error = tail(share, np.asarray(x), path)
    parts = [np.log(0.5) + scipy.stats.norm.logpdf(x, 0, width).sum(1) for width in (0.01, 0.1)]
    missing = (np.logaddexp(*parts) - value) / size
    assert beyond > 4 * error
    assert beyond + 4 * error < missing.mean() - 4 * missing.std() / np.sqrt(len(x))


def test_both_likelihoods_agree_where_the_score_is_exact():
    path = LinearPath()
    oracle = oracles.three_modes(path)
    x = jnp.asarray(draws_of(oracle, 32), jnp.float32)
    by_ode = likelihood.log_likelihood(oracle.velocity, x, None, Solver(rtol=1e-6, atol=1e-6)).y[0]
    value, error, _ = estimate(exact(oracle), path, x, DensityFormula(num_calls=2048))
    assert np.sqrt(np.mean(((value - by_ode) / error) ** 2)) < 1.6
    assert np.mean(error) < 0.2


def test_the_stated_error_is_the_error():
    """400 estimates of one number: unbiased, and scattered as they say."""
    path = LinearPath()
    oracle = oracles.three_modes(path)
    x = np.repeat(draws_of(oracle, 1), 400, axis=0)
    truth = float(oracle.log_density(jnp.asarray(x[:1], jnp.float32), jnp.ones(1))[0])
    for fields in ({}, PLAIN | {"reference": "noise"}, {"placement": "low_discrepancy"}):
        value, error, _ = estimate(exact(oracle), path, x, DensityFormula(num_calls=256, **fields))
        assert abs(value.mean() - truth) < 4 * value.std() / 20
        assert np.sqrt(np.mean(error**2)) == pytest.approx(value.std(), rel=0.15)


def test_the_standard_error_falls_as_one_over_the_square_root():
    """From 512 to 8,192 independent calls: a quarter."""
    path = LinearPath()
    oracle = oracles.gaussian(path, np.zeros(64, np.float32), 1.0)
    x = draws_of(oracle, 64)

    def error(calls):
        formula = DensityFormula(num_calls=calls, reference="noise", placement="independent")
        return np.sqrt(np.mean(estimate(exact(oracle), path, x, formula)[1] ** 2))

    assert error(512) / error(8192) == pytest.approx(4, rel=0.15)


def test_a_gaussian_that_is_the_reference_costs_nothing():
    """Then every draw is exact, whatever the dimension."""
    path = VPPath()
    oracle = oracles.gaussian(path, np.full(6, 0.4, np.float32), 0.3)
    x = draws_of(oracle, 5)
    formula = DensityFormula(num_calls=16)
    value, error, _ = estimate(exact(oracle), path, x, formula, reference=Reference(0.4, 0.09))
    np.testing.assert_allclose(value, scipy.stats.norm.logpdf(x, 0.4, 0.3).sum(1), atol=2e-3)
    assert error.max() < 2e-3


def test_each_means_of_reducing_variance_does():
    """On a Gaussian in 16 dimensions that is not the reference."""
    path = LinearPath()
    oracle = oracles.gaussian(path, np.full(16, 0.3, np.float32), 0.6)
    x = draws_of(oracle, 128)

    def error(near=STANDARD, **fields):
        formula = DensityFormula(num_calls=512, **fields)
        return np.sqrt(np.mean(estimate(exact(oracle), path, x, formula, reference=near)[1] ** 2))

    printed = error(**PLAIN, reference="none")
    controlled = error(**PLAIN, reference="noise")
    paired = error(levels="uniform", reference="noise")
    assert controlled < printed / 1.5
    assert paired < controlled / 1.3
    assert error(Reference(0.3, 0.5)) < paired / 1.3


@pytest.mark.parametrize("levels", ["uniform", "logistic"])
def test_levels_have_the_density_that_is_told_with_them(levels):
    """Between ends that cut off a good part: they reach both, and the mean of 1 / density is the length of the range."""
    u = (np.arange(200_000) + 0.5) / 200_000
    level, log_density = _draw_levels(jnp.asarray(u, jnp.float32), -3.0, 2.0, DensityFormula(levels=levels), None)
    assert float(level[0]) == pytest.approx(-3, abs=1e-3)
    assert float(level[-1]) == pytest.approx(2, abs=1e-3)
    assert np.exp(-np.asarray(log_density, np.float64)).mean() == pytest.approx(5, rel=1e-4)


def test_tabulated_levels_are_drawn_where_the_integrand_is_large():
    path = LinearPath()
    low, high = level_range(path)
    levels = np.linspace(low, high, 6400)
    table = tabulate(levels, np.where(np.abs(levels) < 4, 1.0, 0.01), 33)
    mass = np.exp(table.log_density) * np.diff(table.edges)
    assert mass.sum() == pytest.approx(1, rel=1e-5)
    assert mass[12:20].sum() == pytest.approx(1.0 * 8 / (8 + 0.01 * 24 + 0.1 * (8 + 0.24)), rel=0.1)
    oracle = oracles.three_modes(path)
    x = draws_of(oracle, 64)
    value, error, _ = estimate(exact(oracle), path, x, DensityFormula(num_calls=512, levels="tabulated"), table=table)
    truth = np.asarray(oracle.log_density(jnp.asarray(x, jnp.float32), jnp.ones(64)))
    assert np.sqrt(np.mean(((value - truth) / error) ** 2)) < 1.6


def test_a_wrong_score_bounds_the_sde_from_below():
    """Of N(0, 1) with its score times 1 + 2 s (1 - s), at 0: formula -0.686, ODE -0.419, reverse SDE -0.662 (by quadrature)."""
    path = TrigonometricPath()  # sigma^2 is the paper's time s, with alpha^2 + sigma^2 = 1

    def noise_of(x, t):
        s = path.sigma(t)[:, None] ** 2
        return path.sigma(t)[:, None] * x * (1.0 + 2.0 * s * (1.0 - s))

    predict = predictor(path, noise_of)
    x = np.zeros((256, 1))
    value, error, _ = estimate(predict, path, x, DensityFormula(num_calls=4096))
    assert value.mean() == pytest.approx(-0.686, abs=4 * np.sqrt(np.mean(error**2)) / 16 + 6e-4)

    # Off both ends, where the velocity is not to be had from the noise.
    inside = dataclasses.replace(path, t_min=1e-4, t_max=1 - 1e-4)
    drift = lambda x, t, label: predict("velocity", x, t, label)  # noqa: E731
    span = (inside.t_min, inside.t_max)
    by_ode = likelihood.log_likelihood(drift, jnp.zeros((1, 1)), None, Solver(rtol=1e-6, atol=1e-6), span=span).y[0]
    assert float(by_ode[0]) == pytest.approx(-0.419, abs=6e-4)
    assert value.mean() < -0.662 < float(by_ode[0])


def test_one_key_gives_one_noise_whatever_the_condition():
    """So that classes are compared by what they differ in: their difference scatters far less than each."""
    path = LinearPath()
    means = jnp.asarray([[0.5, -0.2, 0.1], [0.45, -0.1, 0.1]])

    def predict(kind, x, t, condition):
        alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
        return sigma * (x - alpha * means[condition]) / (alpha**2 * 0.16 + sigma**2)

    x = jnp.zeros((200, 3))
    formula = DensityFormula(num_calls=32)
    run = jax.jit(lambda label, keys: formula_log_density(predict, path, x, label, keys, formula).y[0])
    first, second = (np.asarray(run(jnp.full(200, c), keys_of(200))) for c in (0, 1))
    apart = np.asarray(run(jnp.full(200, 1), keys_of(200, seed=1)))
    assert (first - second).std() < 0.3 * (first - apart).std()
    density = lambda c: scipy.stats.norm.logpdf(0.0, np.asarray(means[c]), 0.4).sum()  # noqa: E731
    assert (first - second).mean() == pytest.approx(density(0) - density(1), abs=4 * float((first - second).std()) / 14)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"levels": "sobol"}, "levels is 'sobol', expected one of uniform, logistic, tabulated"),
        ({"placement": "grid"}, "placement is 'grid', expected one of independent"),
        ({"reference": "data"}, "reference is 'data', expected one of none, noise, gaussian"),
        ({"scale": 0.0}, "scale is 0.0, expected a positive number"),
        ({"replicates": 1}, "replicates is 1, expected at least 2"),
        ({"num_calls": 100}, "num_calls is 100, expected a multiple of 16: 8 replicates of pairs"),
    ],
)
def test_mistakes_are_said(fields, message):
    with pytest.raises(ValueError, match=message):
        DensityFormula(**fields)


def test_what_has_no_score_is_refused():
    path = LinearPath(gaussian_source=False)
    with pytest.raises(ValueError, match="needs a score, and so a path from Gaussian noise"):
        level_range(path)
    formula = DensityFormula(levels="tabulated")
    with pytest.raises(ValueError, match="a table goes with 'tabulated', and only with it"):
        formula_log_density(lambda *a: a[1], LinearPath(), jnp.zeros((1, 2)), None, keys_of(1), formula)
