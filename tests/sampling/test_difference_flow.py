"""The score-difference flow against closed forms, and against the processes of denoising diffusion that it is equivalent to."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from scoreflow_jax.errors import UserError
from scoreflow_jax.paths import PATHS, NetworkDrift
from scoreflow_jax.sampling.difference_flow import (
    DifferenceFlow,
    flow_particles,
    move,
    score_difference,
    smoothed_kl,
)
from scoreflow_jax.sampling.kernel_score import smoothed_density
from scoreflow_jax.sampling.noise import noise_for
from scoreflow_jax.sampling.smoothed_score import bandwidth_limits, smoothed_score
from tests import oracles
from tests.changes import of_config

KEY = jax.random.key(0)
MEAN = np.array([1.0, -0.5], np.float32)


def normal_score(mean, variance):
    return lambda x: (mean[None] - x) / variance


def own_score(x):
    """Of the Gaussian with the particles' own moments, coordinate by coordinate."""
    return -(x - x.mean(0, keepdims=True)) / x.var(0, keepdims=True)


def gaussian_kl(mean, variance, mean_p, variance_p):
    """KL(N(mean, variance I) || N(mean_p, variance_p I))."""
    square = np.sum((np.asarray(mean) - mean_p) ** 2)
    d = len(mean)
    return 0.5 * (d * (variance / variance_p - 1 - np.log(variance / variance_p)) + square / variance_p)


def langevin_step(score, dt, shape):
    """Euler's step of dx = score dt + sqrt(2) dW."""
    noise = lambda k: noise_for(jax.random.fold_in(KEY, k), jnp.arange(shape[0]), shape[1:])
    return jax.jit(lambda x, k: x + dt * score(x) + np.sqrt(2 * dt) * noise(k))


def draws(count, mean, std, seed=1):
    return jnp.asarray(mean, jnp.float32)[None] + std * jax.random.normal(jax.random.key(seed), (count, len(mean)))


def test_a_gaussian_stays_one_and_its_divergence_falls():
    """N(mu, v) to N(m, 0.25 I), smoothed by s: mu' = (m - mu)/P, v' = 2 v (1/Q - 1/P), P = 0.25 + s^2, Q = v + s^2."""
    flow = DifferenceFlow(num_steps=400, sigma_start=0.3, schedule="constant", step_rule="constant", step_size=0.002)
    big_p, sigma2 = 0.25 + 0.09, 0.09

    def score_q(x, bandwidth, _):
        """Exact: q is Gaussian with the particles' own moments."""
        return -(x - x.mean(0, keepdims=True)) / (x.var(0, keepdims=True) + bandwidth**2)

    difference = score_difference(lambda x, s, _: normal_score(MEAN, 0.25 + s**2)(x), score_q)
    start = draws(20_000, [-1.0, 1.0], 1.5)
    kept = (0, 100, 200, 300, 400)
    flowed = flow_particles(difference, start, flow, KEY, kept=kept)
    slope = lambda t, y: [*((MEAN - y[:2]) / big_p), 2 * y[2] * (1 / (y[2] + sigma2) - 1 / big_p)]
    exact = solve_ivp(slope, (0, 0.8), [-1.0, 1.0, 2.25], t_eval=[0.002 * k for k in kept], rtol=1e-8).y
    divergences = []
    for frame, y in zip(flowed.frames, exact.T, strict=True):
        std = np.sqrt(y[2])
        np.testing.assert_allclose(frame.mean(0), y[:2], atol=4 * std / np.sqrt(20_000) + 0.004)
        np.testing.assert_allclose(frame.std(0), std, atol=4 * std / np.sqrt(40_000) + 0.004)
        divergences.append(gaussian_kl(y[:2], y[2] + sigma2, MEAN, big_p))
    assert np.all(np.diff(divergences) < 0)


def test_the_particles_own_kernel_density_does_nearly_the_same():
    """A kernel density of 3,000 points in place of the exact one: at the fixed point the smoothed moments are p's."""
    flow = DifferenceFlow(num_steps=150, sigma_start=0.4, schedule="constant", step_size=0.5)
    data = draws(3000, MEAN, 0.5, seed=3)
    difference = score_difference(lambda x, s, y: smoothed_density(x, y, s).score)
    y = np.asarray(flow_particles(difference, draws(2000, [-1.0, 1.0], 1.5), flow, KEY, memory=data).particles)
    np.testing.assert_allclose(y.mean(0), MEAN, atol=0.05)
    np.testing.assert_allclose(y.std(0), 0.5, atol=0.05)


@pytest.mark.parametrize(("mean", "std"), [([-1.0, 1.0], 1.5), ([1.0, -0.5], 0.5), ([0.5, 0.0], 0.8)])
def test_the_estimate_of_the_divergence_is_the_closed_form(mean, std):
    h = 0.5
    found = smoothed_kl(draws(4000, mean, std), draws(8000, MEAN, 0.5, seed=5), h, KEY)
    exact = gaussian_kl(mean, std**2 + h**2, MEAN, 0.25 + h**2)
    # The kernel densities of finitely many points add errors of their own: of q about 1/n sum of q_h's ratio, below 0.02 here.
    assert found.mean == pytest.approx(exact, abs=4 * found.error + 0.03)


def test_in_64_dimensions_no_particle_counts_in_its_own_density():
    """Two draws of one density: the estimate is 0 for reasons of symmetry. A particle's own kernel would add about 70 nats."""
    x, y = (jax.random.normal(jax.random.key(seed), (400, 64)) for seed in (11, 12))
    found = smoothed_kl(x, y, 0.5, KEY)
    assert abs(found.mean) < 4 * np.sqrt(2) * found.error  # the error is over particles; the data scatter as much
    assert found.error < 1


def test_marginals_are_those_of_langevin_dynamics():
    """Gaussians: moments at several times, of the flow with the exact score of q and of dx = score_p dt + sqrt(2) dW."""
    steps, dt, n = 200, 0.004, 20_000
    score_p = normal_score(MEAN, 0.5)
    flow = DifferenceFlow(num_steps=steps, step_rule="constant", step_size=dt)
    x = draws(n, [-1.0, 1.0], 0.4)
    kept = (50, 100, 200)
    difference = score_difference(lambda x, s, _: score_p(x), lambda x, s, _: own_score(x))
    frames = flow_particles(difference, x, flow, KEY, kept=kept).frames
    langevin = langevin_step(score_p, dt, (n, 2))
    for k in range(steps):
        x = langevin(x, k)
        if k + 1 in kept:
            frame = frames[kept.index(k + 1)]
            error = float(np.sqrt(2 / n) * frame.std(0).max())
            np.testing.assert_allclose(frame.mean(0), np.asarray(x).mean(0), atol=4 * error)
            np.testing.assert_allclose(frame.std(0), np.asarray(x).std(0), atol=4 * error + 0.005)


def test_marginals_of_langevin_dynamics_on_a_mixture():
    """One dimension, where q has no closed form: its score is the kernel density's, narrow against the mixture."""
    steps, dt, n, h = 150, 0.004, 3000, 0.12
    log_p = lambda x: jnp.logaddexp(-0.5 * (x - 1.2) ** 2 / 0.25, -0.5 * (x + 1.2) ** 2 / 0.25 + np.log(0.5))
    score_p = lambda x: jax.vmap(jax.grad(log_p))(x[:, 0])[:, None]
    x = draws(n, [0.3], 0.8)
    flow = DifferenceFlow(num_steps=steps, sigma_start=h, schedule="constant", step_rule="constant", step_size=dt)
    kept = (50, 150)
    frames = flow_particles(score_difference(lambda x, s, _: score_p(x)), x, flow, KEY, kept=kept).frames
    langevin = langevin_step(score_p, dt, (n, 1))
    for k in range(steps):
        x = langevin(x, k)
        if k + 1 in kept:
            theirs, ours = np.asarray(x)[:, 0], frames[kept.index(k + 1)][:, 0]
            for power in (1, 2, 4):
                error = float(np.sqrt(np.var(theirs**power) * 2 / n))
                assert np.mean(ours**power) == pytest.approx(np.mean(theirs**power), abs=4 * error + 0.02 * power), (
                    power
                )


def test_a_step_against_the_conditional_is_tweedies_denoiser():
    """At z = x + s noise, with score_q = -(z - x)/s^2: x + s^2 (score_p(z) - score_q(z)) = E[x1 | z], on a mixture."""
    path = PATHS["ve"](sigma_min=0.01, sigma_max=10.0)
    oracle = oracles.three_modes(path)
    drift = NetworkDrift(lambda x, t, c: oracle.velocity(x, t), path)
    score = smoothed_score(lambda kind, x, t: drift.predict(kind, x, t, None), path)
    x = jax.random.normal(KEY, (50, 4))
    flow = DifferenceFlow(num_steps=1, sigma_start=0.7, jitter=True)
    key = jax.random.key(7)
    difference = lambda at, s, particles, step, memory: (score(at, s) + (at - particles) / s**2, memory)
    moved, _ = move(difference, flow, x, 0, None, key)
    z = x + 0.7 * noise_for(jax.random.fold_in(key, 0), jnp.arange(50), (4,))
    t = jnp.full(50, path.time_at(-2.0 * jnp.log(0.7)))
    np.testing.assert_allclose(moved, oracle.data_and_noise(z, t)[0], atol=2e-4)


def test_particles_far_apart_are_denoised():
    """A kernel density of particles much further apart than s is the conditional: a step is the mean shift of the data at z."""
    x = 50.0 * jnp.arange(6, dtype=jnp.float32)[:, None] + jnp.zeros((6, 2))
    data = x[:, None] + jax.random.normal(KEY, (6, 40, 2))
    flow = DifferenceFlow(num_steps=1, sigma_start=0.8, jitter=True)
    difference = score_difference(lambda x, s, y: smoothed_density(x, y, s).score)
    moved, _ = move(difference, flow, x, 0, data.reshape(-1, 2), KEY)
    z = np.asarray(x + 0.8 * noise_for(jax.random.fold_in(KEY, 0), jnp.arange(6), (2,)), np.float64)
    own = np.asarray(data, np.float64)
    weights = np.exp(-0.5 * np.sum((own - z[:, None]) ** 2, -1) / 0.64)
    expected = np.sum(weights[..., None] * own, 1) / weights.sum(1)[:, None]
    np.testing.assert_allclose(moved, expected, atol=2e-3)


def test_the_reverse_sde_from_a_wrong_density():
    """As s falls from 3 to 0.2 with p_s = N(m, 0.25 + s^2) and q from N(0, 1), which is not p_3.

    The SDE's moments follow d mu = 2 (m - mu)/P du, dv = (2 - 4 v/P) du with du = s |ds|; the flow 2 score_p - score_q is stepped
    as the probability-flow ODE and this module's flow, summed.
    """
    steps, n = 600, 20_000
    levels = np.geomspace(3.0, 0.2, steps + 1)
    x = draws(n, [0.0, 0.0], 1.0)

    @jax.jit
    def step(x, s, rate):
        p = normal_score(MEAN, 0.25 + s**2)
        difference = score_difference(lambda x, *_: p(x), lambda x, *_: own_score(x))(x, s, x, 0, None)[0]
        return x + rate * p(x) + rate * difference

    for s, after in zip(levels[:-1], levels[1:], strict=True):
        x = step(x, s, 0.5 * (s**2 - after**2))

    def slope(u, y):
        """Along u = -s^2 / 2."""
        p = 0.25 - 2 * u
        return [*(2 * (MEAN - y[:2]) / p), 2 - 4 * y[2] / p]

    exact = solve_ivp(slope, (-4.5, -0.02), [0.0, 0.0, 1.0], rtol=1e-9).y[:, -1]
    std = np.sqrt(exact[2])
    np.testing.assert_allclose(x.mean(0), exact[:2], atol=4 * std / np.sqrt(n) + 0.01)
    np.testing.assert_allclose(x.std(0), std, atol=4 * std / np.sqrt(2 * n) + 0.01)
    assert abs(std - np.sqrt(0.25 + 0.04)) < 0.1  # what was wrong is forgotten on the way, but for what noise forgets


@pytest.mark.parametrize("name", ["linear", "vp", "ve"])
@pytest.mark.parametrize("bandwidth", [0.05, 0.4, 2.0])
def test_learned_scores_are_those_of_smoothed_classes(name, bandwidth):
    """The exact drift of class Gaussians N(m_c, s_c^2 I): the score of y is (m_c - y) / (s_c^2 + bandwidth^2)."""
    path = PATHS[name](**({"sigma_max": 50.0, "sigma_min": 0.01} if name == "ve" else {}))
    means, stds = np.array([[1.0, -0.5], [-1.0, 0.3]]), np.array([0.4, 0.9])
    drift = NetworkDrift(oracles.class_gaussians(path, means, stds), path)
    labels = jnp.arange(20) % 2
    y = jax.random.normal(KEY, (20, 2))
    score = smoothed_score(lambda kind, x, t: drift.predict(kind, x, t, labels), path)(y, jnp.float32(bandwidth))
    exact = (means[labels] - np.asarray(y)) / (stds[labels, None] ** 2 + bandwidth**2)
    np.testing.assert_allclose(score, exact, rtol=2e-3, atol=2e-3)
    low, high = bandwidth_limits(path)
    assert low < bandwidth < high


@pytest.mark.parametrize("name", ["linear", "trigonometric", "vp", "sub_vp", "ve", "ddpm"])
def test_the_time_of_a_bandwidth(name):
    path = PATHS[name]()
    for bandwidth in (0.05, 0.3, 1.0, 5.0):
        t = path.time_at(-2.0 * jnp.log(bandwidth))
        assert float(path.noise_std(t) / path.alpha(t)) == pytest.approx(bandwidth, rel=1e-3)
    low, _ = bandwidth_limits(path)
    assert float(path.time_at(jnp.asarray(jnp.inf))) == pytest.approx(path.t_max, abs=1e-6)
    assert low < 0.05


def test_eq_7_moves_a_point_by_its_closed_form():
    """N(0, I) to N(m, I), s = s_0 e^t: the drift is m s^2 / (1 + s^2), and moves by (1/2) ln((1 + s_0^2 e^2)/(1 + s_0^2)) m."""
    means, steps = np.array([[0.0, 0.0], [2.0, -1.0]]), 1000
    path = PATHS["linear"]()
    drift = NetworkDrift(oracles.class_gaussians(path, means, np.ones(2)), path)
    of = lambda c: smoothed_score(lambda kind, x, t: drift.predict(kind, x, t, jnp.full(len(x), c)), path)
    difference = score_difference(lambda x, s, _: of(1)(x, s), lambda x, s, _: of(0)(x, s))
    flow = DifferenceFlow(num_steps=steps, sigma_start=1.0, sigma_end=float(np.e), step_size=1 / steps)
    start = jnp.array([[0.0, 0.0], [0.7, -2.0]])
    moved = flow_particles(difference, start, flow, KEY).particles - start
    share = 0.5 * np.log((1 + np.e**2) / 2)
    assert share == pytest.approx(0.717, abs=5e-4)
    np.testing.assert_allclose(moved, np.broadcast_to(share * means[1], (2, 2)), atol=1e-3)


def test_noise_has_an_address():
    """Fewer particles move as the first of many; kept frames change nothing."""
    flow = DifferenceFlow(num_steps=6, jitter=True)
    difference = score_difference(lambda x, s, _: -x, lambda x, s, _: 0.5 * x)
    x = draws(10, MEAN, 1.0)
    whole = flow_particles(difference, x, flow, KEY)
    some = flow_particles(difference, x[:4], flow, KEY, kept=(0, 2, 6))
    np.testing.assert_array_equal(some.frames[0], x[:4])
    np.testing.assert_allclose(some.particles, whole.particles[:4], rtol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "expected"), [("constant", [2, 2, 2]), ("linear", [2, 1.25, 0.5]), ("geometric", [2, 1, 0.5])]
)
def test_schedules_and_rules(schedule, expected):
    flow = DifferenceFlow(num_steps=3, sigma_start=2.0, sigma_end=0.5, schedule=schedule, step_size=0.1)
    bandwidths = [flow.bandwidth(k) for k in range(3)]
    np.testing.assert_allclose(bandwidths, expected, rtol=1e-6)
    np.testing.assert_allclose([flow.step_length(s) for s in bandwidths], 0.1 * np.square(expected), rtol=1e-6)
    constant = dataclasses.replace(flow, step_rule="constant")
    np.testing.assert_allclose([constant.step_length(s) for s in bandwidths], 0.1)


def test_refuses_what_cannot_be():
    for fields, match in (
        ({"schedule": "cosine"}, "schedule is 'cosine', expected one of constant"),
        ({"step_rule": "adam"}, "step_rule is 'adam'"),
        ({"sigma_end": 0.0}, "sigma_end is 0.0, expected a positive number"),
        ({"num_steps": 0}, "num_steps is 0"),
    ):
        with pytest.raises(ValueError, match=match):
            of_config(DifferenceFlow, **fields)
    explodes = score_difference(lambda x, s, _: jnp.inf * x, lambda x, s, _: x)
    with pytest.raises(UserError, match="not finite after 3 steps"):
        flow_particles(explodes, jnp.ones((4, 2)), DifferenceFlow(num_steps=5), KEY, kept=(3,))
    with pytest.raises(ValueError, match="no smoothed data"):
        smoothed_score(lambda *_: None, PATHS["linear"](gaussian_source=False))
