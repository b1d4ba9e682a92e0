"""SDE samplers with exact scores: moments within Monte-Carlo error, published steps, limits, order, addresses."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax.paths import PATHS, LinearPath, NetworkDrift
from scoreflow_jax.sampling import Sampler, sample_keys, sample_stochastically
from scoreflow_jax.settings.fields import annotations, choices
from scoreflow_jax.training.times import Grid
from tests import oracles
from tests.changes import of_config

pytestmark = pytest.mark.usefixtures("optimized")  # thousands of paths of hundreds of steps

N = 20_000
STOCHASTIC = [name for name in choices(annotations(Sampler)["name"]) if name != "ode"]
MEAN, STD = np.array([0.6, -0.3], np.float32), 0.4


def predictor(path, oracle):
    """Exact predictions from the oracle's velocity."""
    return NetworkDrift(lambda x, t, c: oracle.velocity(x, t), path).predict


def run(path, oracle, sampler, *, count=N, seed=0, x=None, span=None, dim=2):
    keys = sample_keys(jax.random.key(seed), jnp.arange(count))
    if x is None:
        x = path.prior_scale * jax.random.normal(jax.random.key(seed + 1), (count, dim))
    go = jax.jit(
        lambda x, keys: sample_stochastically(
            predictor(path, oracle), path, x, None, keys, sampler, span=span or sampler.span(path)
        )
    )
    return go(x, keys)


def check_moments(y, mean, std, extra=0.0):
    """Within 4 standard errors, and `extra` for what the discretization is off by."""
    error = 1 / np.sqrt(len(y))
    np.testing.assert_allclose(y.mean(0), mean, atol=4 * std * error + extra)
    np.testing.assert_allclose(y.std(0), np.broadcast_to(std, y.shape[1]), atol=4 * std * error / np.sqrt(2) + extra)


@pytest.mark.parametrize("sampler", STOCHASTIC)
@pytest.mark.parametrize("name", ["vp", "sub_vp", "ve", "linear", "ddpm"])
def test_every_sampler_reaches_the_data(name, sampler):
    """A Gaussian by 300 steps. The end is E[data | last state], whose spread lacks what little noise was left there."""
    path = PATHS[name](**({"sigma_max": 50.0, "sigma_min": 0.01} if name == "ve" else {}))
    solution = run(path, oracles.gaussian(path, MEAN, STD), Sampler(name=sampler, num_steps=300, snr=0.1))
    assert bool(solution.succeeded)
    check_moments(np.asarray(solution.y), MEAN, STD, extra=0.012)


def test_predictor_corrector_reaches_a_mixture():
    path = PATHS["vp"]()
    oracle = oracles.three_modes(path, dim=1)
    y = np.asarray(run(path, oracle, Sampler(name="predictor_corrector", num_steps=300), dim=1).y)[:, 0]
    exact_mean = float(np.sum(oracle.weights * oracle.means[:, 0]))
    exact_var = float(np.sum(oracle.weights * (oracle.stds**2 + oracle.means[:, 0] ** 2)) - exact_mean**2)
    assert y.mean() == pytest.approx(exact_mean, abs=4 * np.sqrt(exact_var / N) + 0.02)
    assert y.var() == pytest.approx(exact_var, rel=0.04)


@pytest.mark.parametrize("name", ["vp", "linear", "trigonometric"])
@pytest.mark.parametrize("schedule", ["path", "constant", "sigma"])
def test_marginals_on_the_way_do_not_depend_on_the_noise(name, schedule):
    """Stopped at t = 0.6: N(alpha m, alpha^2 s^2 + sigma^2) for any strength of noise."""
    path = PATHS[name]()
    oracle = oracles.gaussian(path, MEAN, STD)
    t = jnp.float32(0.6)
    mean = float(path.alpha(t)) * MEAN
    std = float(np.sqrt(path.alpha(t) ** 2 * STD**2 + path.sigma(t) ** 2))
    for noise in (0.3, 1.0):
        sampler = Sampler(name="euler_maruyama", num_steps=400, noise=noise, schedule=schedule, denoise=False)
        y = run(path, oracle, sampler, span=(sampler.span(path)[0], 0.6)).y
        check_moments(np.asarray(y), mean, std, extra=0.015)


def test_without_noise_it_is_eulers_method():
    path = PATHS["vp"]()
    oracle = oracles.gaussian(path, MEAN, STD)
    sampler = Sampler(name="euler_maruyama", num_steps=50, noise=0.0, denoise=False)
    x = jax.random.normal(jax.random.key(5), (8, 2))
    got = run(path, oracle, sampler, count=8, x=x).y
    times = np.linspace(*sampler.span(path), 51, dtype=np.float32)
    for t, u in zip(times[:-1], times[1:], strict=True):
        x = x + (u - t) * oracle.velocity(x, jnp.full((8,), t))
    np.testing.assert_allclose(got, x, rtol=1e-4, atol=1e-5)


def test_order_of_convergence_of_the_deterministic_limits():
    """Euler's and DDIM's steps are of first order: half the step, half the error against the exact flow x -> m + s x."""
    path = PATHS["variance_preserving"]()
    oracle = oracles.gaussian(path, MEAN, STD)
    x = jax.random.normal(jax.random.key(6), (64, 2))
    start, stop = 0.05, 0.9
    deviation = lambda t: np.sqrt(t**2 * STD**2 + 1 - t**2)
    exact = stop * MEAN + deviation(stop) / deviation(start) * (np.asarray(x) - start * MEAN)
    for name in ("euler_maruyama", "ddim"):
        errors = []
        for steps in (40, 80, 160):
            sampler = Sampler(name=name, num_steps=steps, noise=0.0, denoise=False)
            y = run(path, oracle, sampler, count=64, x=x, span=(start, stop)).y
            errors.append(np.abs(np.asarray(y) - exact).mean())
        np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2, atol=0.25)


@pytest.mark.parametrize("name", ["ddim", "ancestral"])
def test_ddpms_network_is_asked_at_levels_of_its_chain_alone(name):
    """50 steps over the 1,000 levels: 51 of those that training draws, 19 or 20 apart, both ends among them."""
    path, asked = PATHS["ddpm"](), []
    oracle = oracles.gaussian(path, MEAN, STD)

    def predict(kind, x, t, condition):
        jax.debug.callback(lambda time: asked.append(np.float32(time)), t[0], ordered=True)
        return predictor(path, oracle)(kind, x, t, condition)

    sampler = Sampler(name=name, num_steps=50)
    keys, span = sample_keys(jax.random.key(0), [0]), sampler.span(path)
    go = jax.jit(lambda x: sample_stochastically(predict, path, x, None, keys, sampler, span=span))
    jax.block_until_ready(go(jnp.ones((1, 2))))
    jax.effects_barrier()
    trained = np.asarray(Grid(count=1000).quantile((jnp.arange(1000) + 0.5) / 1000))
    assert len(asked) == sampler.network_calls(path) == 51
    assert set(asked) <= set(trained)
    places = np.searchsorted(trained, asked)
    assert (places[0], places[-1]) == (0, 999)
    assert set(np.diff(places)) == {19, 20}
    assert np.abs(places - np.linspace(0, 999, 51)).max() <= 0.5


def test_from_data_to_noise_by_the_same_sde():
    path = LinearPath()
    oracle = oracles.gaussian(path, MEAN, STD)
    sampler = Sampler(name="euler_maruyama", num_steps=400, noise=0.5, schedule="sigma")
    data = jnp.asarray(MEAN)[None] + STD * jax.random.normal(jax.random.key(8), (N, 2))
    y = np.asarray(run(path, oracle, sampler, x=data, span=sampler.span(path)[::-1]).y)
    check_moments(y, np.zeros(2), 1.0, extra=0.015)
    inner = np.corrcoef(np.asarray(data)[:, 0], y[:, 0])[0, 1]
    assert 0.02 < inner < 0.98  # neither the ODE nor a new draw


@pytest.mark.parametrize("schedule", ["constant", "gamma"])
def test_between_two_data_sets_with_a_latent(schedule):
    """N(-1, 0.5^2) to N(2, 0.8^2), score from the denoiser: ends and the middle have their moments, either way."""
    a, r, b, s = -1.0, 0.5, 2.0, 0.8
    path = LinearPath(gaussian_source=False, latent="sine", latent_scale=0.6)

    def network(x, t, c):
        t = t[:, None]
        gamma = 0.6 * jnp.sin(jnp.pi * t) ** 2
        variance = (1 - t) ** 2 * r**2 + t**2 * s**2 + gamma**2
        centred = x - (1 - t) * a - t * b
        return jnp.concatenate(
            [(b - a) + (t * s**2 - (1 - t) * r**2) / variance * centred, gamma / variance * centred], -1
        )

    drift = NetworkDrift(network, path)
    sampler = Sampler(name="euler_maruyama", num_steps=400, noise=0.5, schedule=schedule, margin=1e-2)
    sampler.check_path(path)
    keys = sample_keys(jax.random.key(0), jnp.arange(N))
    noise = jax.random.normal(jax.random.key(9), (N, 1))
    for x, span, mean, std in (
        (a + r * noise, sampler.span(path), b, s),
        (b + s * noise, sampler.span(path)[::-1], a, r),
    ):
        y = jax.jit(lambda x, k, span=span: sample_stochastically(drift.predict, path, x, None, k, sampler, span=span))(
            x, keys
        ).y
        check_moments(np.asarray(y), [mean], std, extra=0.03)


@pytest.mark.parametrize("i", [1, 400, 999])
def test_steps_are_those_of_score_sde_and_ddpm(i):
    """One step of each, against the published update written out from betas and sigmas."""
    x, noise = (jax.random.normal(jax.random.key(i), (4, 3)) for i in (10, 11))
    score = jnp.cos(x)
    from scoreflow_jax.sampling.stochastic import _ancestral, _langevin, _reverse_diffusion

    told = lambda kind, x, t: {"score": score}[kind]
    ddpm = PATHS["ddpm"]()
    betas = np.linspace(1e-4, 0.02, 1000)
    t, u = (jnp.float32(1 - k / 999) for k in (i, i - 1))
    # reverse diffusion (eq. 46) and ancestral sampling (eq. 4 and 47) of Song et al.
    want = (2 - np.sqrt(1 - betas[i])) * x + betas[i] * score + np.sqrt(betas[i]) * noise
    np.testing.assert_allclose(_reverse_diffusion(told, ddpm, Sampler(), x, t, u, noise), want, rtol=2e-3, atol=2e-4)
    mean = (x + betas[i] * score) / np.sqrt(1 - betas[i])
    products = np.cumprod(1 - betas)
    posterior = np.sqrt((1 - products[i - 1]) / (1 - products[i]) * betas[i])
    for variance, spread in (("posterior", posterior), ("forward", np.sqrt(betas[i]))):
        got = _ancestral(told, ddpm, Sampler(variance=variance), x, t, u, noise)
        np.testing.assert_allclose(got, mean + spread * noise, rtol=2e-3, atol=2e-4)
    # The corrector, algorithm 5: with the norms over the batch, and alpha = 1 - beta.
    lengths = [np.linalg.norm(v, axis=1).mean() for v in (noise, score)]
    size = 2 * (1 - betas[i]) * (0.16 * lengths[0] / lengths[1]) ** 2
    got = _langevin(told, ddpm, Sampler(), x, t, u, noise)
    np.testing.assert_allclose(got, x + size * score + np.sqrt(2 * size) * noise, rtol=1e-3, atol=1e-4)
    ve = PATHS["ve"](sigma_min=0.01, sigma_max=50.0)
    big, small = 0.01 * 5000 ** (i / 999), 0.01 * 5000 ** ((i - 1) / 999)
    want = x + (big**2 - small**2) * score + np.sqrt(small**2 * (big**2 - small**2) / big**2) * noise
    np.testing.assert_allclose(_ancestral(told, ve, Sampler(), x, t, u, noise), want, rtol=1e-3, atol=1e-4)


def test_a_coarse_step_of_reverse_diffusion_is_eq_46():
    """beta = 1/4, where 2 - a and 1 / a differ by 2 %: with DDPM's own betas they hardly do."""
    from scoreflow_jax.sampling.stochastic import _reverse_diffusion

    path, beta = PATHS["ddpm"](num_scales=8, beta_first=0.05, beta_last=0.25), 0.25
    x, noise = (jax.random.normal(jax.random.key(i), (4, 3)) for i in (10, 11))
    got = _reverse_diffusion(
        lambda kind, x, t: {"score": -x}[kind], path, Sampler(), x, jnp.float32(0), jnp.float32(1 / 7), noise
    )
    np.testing.assert_allclose(got, (2 - np.sqrt(1 - beta) - beta) * x + np.sqrt(beta) * noise, rtol=1e-4, atol=1e-5)


def test_a_sample_is_the_same_in_any_company():
    path = PATHS["vp"]()
    oracle = oracles.gaussian(path, MEAN, STD)
    sampler = Sampler(name="euler_maruyama", num_steps=20)
    x, key = jax.random.normal(jax.random.key(0), (6, 2)), jax.random.key(4)
    whole = sample_stochastically(predictor(path, oracle), path, x, None, sample_keys(key, jnp.arange(6)), sampler).y
    some = jnp.array([4, 1])
    part = sample_stochastically(predictor(path, oracle), path, x[some], None, sample_keys(key, some), sampler).y
    np.testing.assert_allclose(part, whole[some], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_network_calls_are_counted_by_running(name):
    calls = []

    def network(x, t, c):
        jax.debug.callback(lambda: calls.append(1))
        return -x

    path = PATHS["vp"]()
    sampler = Sampler(name=name, num_steps=7, corrector_steps=2)
    drift = NetworkDrift(network, path)
    keys = sample_keys(jax.random.key(0), jnp.arange(3))
    go = jax.jit(lambda x: sample_stochastically(drift.predict, path, x, None, keys, sampler, span=sampler.span(path)))
    solution = jax.block_until_ready(go(jnp.ones((3, 2))))
    jax.effects_barrier()
    assert len(calls) == int(solution.num_evaluations)
    assert int(solution.num_evaluations) == {"predictor_corrector": 22}.get(name, 8)


@pytest.mark.parametrize(
    ("how", "path", "match"),
    [
        ({"name": "magic"}, None, "name is 'magic', expected one of ode, euler_maruyama"),
        ({"schedule": "loud"}, None, "schedule is 'loud'"),
        ({"num_steps": 0}, None, "num_steps is 0, expected at least 1"),
        ({"snr": 0.0}, None, "snr is 0.0, expected a positive number"),
        ({"name": "ancestral"}, LinearPath(gaussian_source=False), "which needs a score"),
        (
            {"name": "ancestral"},
            LinearPath(gaussian_source=False, latent="sine"),
            "take 'euler_maruyama' with schedule 'gamma'",
        ),
        ({"name": "euler_maruyama", "schedule": "gamma"}, LinearPath(), "the path has no latent"),
        ({"name": "euler_maruyama"}, LinearPath(gaussian_source=False, latent="sine"), "from Gaussian noise"),
    ],
)
def test_what_means_nothing_is_refused(how, path, match):
    with pytest.raises(ValueError, match=match):
        of_config(Sampler, **how).check_path(path)


def test_only_one_sampler_goes_back():
    path = PATHS["vp"]()
    with pytest.raises(ValueError, match="from noise to data only"):
        run(path, types.SimpleNamespace(velocity=None), Sampler(name="ancestral"), count=2, span=(0.9, 0.1))
