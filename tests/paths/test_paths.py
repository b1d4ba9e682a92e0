"""Every path: boundary values, velocity by finite differences, conversions, and the oracles' velocity and score."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from scoreflow_jax.ode import Solver
from scoreflow_jax.paths import PATHS, LearnedPath, LinearPath, NetworkDrift, Parameterization
from tests import oracles
from tests.changes import of_config

LEARNED = np.array([0.1, -0.05, 0.2, 0.03], np.float32)  # b, a
PATH_OF = {name: cls() for name, cls in PATHS.items()}
PATH_OF["learned"] = LearnedPath(num_terms=2).with_parameters(jnp.asarray(LEARNED))
AFFINE = [pytest.param(path, id=name) for name, path in PATH_OF.items()]
KINDS = ("velocity", "data", "noise", "score")
F32 = 2e-5  # a few float32 roundings of numbers of order one
KEYS = jax.random.split(jax.random.key(0), 4)
X0, X1, Z = (jax.random.normal(k, (16, 4)) for k in KEYS[:3])
T = jnp.linspace(0.05, 0.95, 16)


@pytest.mark.parametrize("path", AFFINE)
def test_ends_are_source_and_data(path):
    """Up to the little data that VP's keep in the noise, and the little noise that VE's and DDPM's keep in the data."""
    start, end = jnp.zeros(()), jnp.ones(())
    assert float(path.sigma(start)) == pytest.approx(path.prior_scale, rel=1e-4)
    assert float(path.alpha(start)) <= 0.011 * path.prior_scale
    assert float(path.alpha(end)) == pytest.approx(1, abs=1e-4)
    assert abs(float(path.sigma(end))) <= 0.021
    expected = float(path.alpha(start)) * X1 + float(path.sigma(start)) * X0
    np.testing.assert_allclose(path.interpolant(jnp.zeros(16), X0, X1), expected, atol=F32 * path.prior_scale)


@pytest.mark.parametrize("path", AFFINE)
@pytest.mark.parametrize("latent", ["none", "sine", "brownian"])
def test_velocity_is_the_time_derivative(path, latent):
    path = type(path)(t_min=0.01, t_max=0.99, latent=latent, latent_scale=0.7)
    with jax.enable_x64(True):
        x0, x1, z, t = (jnp.asarray(np.asarray(a), jnp.float64) for a in (X0, X1, Z, T))
        h = 1e-5
        difference = (path.interpolant(t + h, x0, x1, z) - path.interpolant(t - h, x0, x1, z)) / (2 * h)
        got = path.velocity(t, x0, x1, z)
        np.testing.assert_allclose(got, difference, rtol=2e-5, atol=1e-6)


def test_linear_path_is_the_papers():
    np.testing.assert_allclose(LinearPath().interpolant(T, X0, X1), (1 - T)[:, None] * X0 + T[:, None] * X1, atol=F32)
    np.testing.assert_allclose(LinearPath().velocity(T, X0, X1), X1 - X0, atol=F32)


@pytest.mark.parametrize("path", AFFINE)
@pytest.mark.parametrize("latent", ["none", "sine"])
def test_conversions_agree_with_the_mixture(path, latent):
    """Posterior means of a mixture, converted into each other: nothing here knows the 2x2 solve."""
    path = path if latent == "none" else type(path)(latent=latent, latent_scale=0.7)
    oracle = oracles.three_modes(path)
    x = path.interpolant(T, X0, X1, Z)
    data, noise = oracle.data_and_noise(x, T)
    truth = {"velocity": oracle.velocity(x, T), "data": data, "noise": noise, "score": oracle.score(x, T)}
    for source, target in itertools.product(KINDS, KINDS):
        got = path.convert(truth[source], x, T, given=source, wanted=target)
        # Near t = 1 the data hardly depend on the noise (and the reverse near 0): the solve loses up to 1 / 0.05 digits, and on
        # VE's path, where x is up to 60 times the data, as much again.
        size = float(jnp.max(jnp.abs(truth[target])))
        lost = 10.0 if path.prior_scale > 1 else 1.0
        np.testing.assert_allclose(got, truth[target], atol=2e-3 * max(1.0, size) * lost, rtol=2e-3 * lost)


@pytest.mark.parametrize("path", AFFINE)
def test_a_latent_is_noise_where_the_source_is(path):
    """sigma x0 + gamma z has the moments that `noise_std` says."""
    path = type(path)(latent="sine", latent_scale=0.7)
    n = 100_000
    t = jnp.full((n,), 0.4)
    keys = jax.random.split(jax.random.key(5))
    x0, z = (jax.random.normal(k, (n, 1)) for k in keys)
    noise = path.interpolant(t, x0, jnp.zeros((n, 1)), z)
    expected = float(path.noise_std(jnp.float32(0.4)))
    assert float(noise.std()) == pytest.approx(expected, rel=4 / math.sqrt(2 * n))
    assert expected > float(path.sigma(jnp.float32(0.4)))


@pytest.mark.parametrize("path", AFFINE)
def test_score_needs_a_gaussian_source(path):
    other = type(path)(gaussian_source=False)
    with pytest.raises(ValueError, match="no score"):
        other.convert(X0, X0, T, given="velocity", wanted="score")
    with pytest.raises(ValueError, match="no score"):
        other.diffusion_squared(T)


@pytest.mark.parametrize("path", AFFINE)
def test_source_is_standard_normal(path):
    x = np.asarray(path.sample_source(jax.random.key(3), (200_000, 1)))
    standard_error = 1 / np.sqrt(len(x))
    assert abs(x.mean()) < 4 * standard_error
    assert abs(x.var() - 1) < 4 * np.sqrt(2) * standard_error


@pytest.mark.parametrize("path", AFFINE)
def test_diffusion_keeps_the_marginals(path):
    """From data to noise dx = F x ds + g dW with F = d log alpha / ds: the variance of noise obeys dv/ds = 2 F v + g^2."""
    with jax.enable_x64(True):
        t = jnp.linspace(0.0503, 0.9503, 16, dtype=jnp.float64)
        h = 1e-7
        rate = -(jnp.log(path.alpha(t + h)) - jnp.log(path.alpha(t - h))) / (2 * h)
        growth = -(path.sigma(t + h) ** 2 - path.sigma(t - h) ** 2) / (2 * h)
        np.testing.assert_allclose(
            path.diffusion_squared(t), growth - 2 * rate * path.sigma(t) ** 2, rtol=1e-4, atol=1e-5
        )


def test_score_sdes_are_as_published():
    """The formulas of score_sde's sde_lib.py and of Song et al., appendix C, with its time s = 1 - t, written down once more."""
    s = np.linspace(0.02, 0.98, 13)
    t = jnp.asarray(1 - s, jnp.float32)
    log_mean = -0.25 * s**2 * (20 - 0.1) - 0.5 * s * 0.1
    beta = 0.1 + s * (20 - 0.1)
    vp, sub_vp, ve = PATHS["vp"](), PATHS["sub_vp"](), PATHS["ve"](sigma_min=0.01, sigma_max=50.0)
    for path, std, g2 in (
        (vp, np.sqrt(1 - np.exp(2 * log_mean)), beta),
        (sub_vp, 1 - np.exp(2 * log_mean), beta * (1 - np.exp(-2 * 0.1 * s - (20 - 0.1) * s**2))),
    ):
        np.testing.assert_allclose(path.alpha(t), np.exp(log_mean), rtol=1e-5)
        np.testing.assert_allclose(path.sigma(t), std, rtol=1e-4)
        np.testing.assert_allclose(path.diffusion_squared(t), g2, rtol=1e-3)
    sigma = 0.01 * (50 / 0.01) ** s
    np.testing.assert_allclose(ve.sigma(t), sigma, rtol=1e-4)
    np.testing.assert_allclose(ve.diffusion_squared(t), sigma**2 * 2 * np.log(50 / 0.01), rtol=1e-3)


def test_ddpm_has_the_published_products():
    betas = np.linspace(1e-4, 0.02, 1000)
    products = np.cumprod(1 - betas)
    t = jnp.asarray(1 - np.arange(1000) / 999, jnp.float32)
    path = PATHS["ddpm"]()
    np.testing.assert_allclose(path.alpha(t) ** 2, products, rtol=2e-4)
    np.testing.assert_allclose(path.sigma(t) ** 2, 1 - products, rtol=2e-4, atol=2e-6)
    # Its limit is the VP SDE: beta N from 0.1 to 20.
    np.testing.assert_allclose(path.alpha(t)[::50], PATHS["vp"]().alpha(t)[::50], atol=5e-3)


def test_ddpm_steps_on_the_grid_whatever_program_asks():
    """By the step's number inside one program: which then may round t (N - 1) in two ways, to both sides of a level."""
    path = PATHS["ddpm"](num_scales=50, beta_first=1e-3, beta_last=0.3)

    @jax.jit
    def step(i):
        t, u = (jnp.broadcast_to(1.0 - j / 49, (4,)) for j in (i, i - 1))
        return path.noise_std(t), path.noise_std(u), (path.alpha(t) / path.alpha(u)) ** 2

    betas = np.linspace(1e-3, 0.3, 50)
    std = np.sqrt(1 - np.cumprod(1 - betas))
    found = np.asarray([step(jnp.float32(i)) for i in range(1, 50)])
    expected = np.stack([std[1:], std[:-1], 1 - betas[1:]], axis=1)
    np.testing.assert_allclose(found, np.repeat(expected[:, :, None], 4, axis=2), rtol=1e-5)


def test_ddpm_is_smooth_between_and_at_its_levels():
    """A product of 1 - beta_0 - j d is one of Gamma functions, which tells what is natural between whole numbers of steps."""
    first, step = 1e-4, (2e-2 - 1e-4) / 999
    whole = (1 - first) / step
    x = np.linspace(0, 999, 4 * 999 + 1)
    terms = (x + 1) * np.log(step), special.gammaln(whole + 1), -special.gammaln(whole - x)
    path, t = PATHS["ddpm"](), jnp.asarray(1 - x / 999, jnp.float32)
    value, slope = jax.jvp(path._log_alpha, (t,), (jnp.ones_like(t),))
    np.testing.assert_allclose(value[::4], 0.5 * np.cumsum(np.log1p(-np.linspace(1e-4, 2e-2, 1000))), rtol=1e-6)
    np.testing.assert_allclose(value, sum(terms) / 2, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(slope, -999 * (np.log(step) + special.digamma(whole - x)) / 2, rtol=1e-4)


def test_an_exact_drift_costs_on_ddpms_path_what_it_costs_on_vps():
    """Where log alpha had kinks, and half its slope at both ends, it cost 5 to 12 times as many calls."""
    calls = {}
    for name in ("vp", "ddpm"):
        path = PATHS[name]()
        oracle, solver = oracles.gaussian(path, np.array([0.6, -0.3], np.float32), 0.4), Solver(rtol=1e-6, atol=1e-6)
        field = lambda t, x, args, oracle=oracle: oracle.velocity(x, jnp.full(len(x), t))
        there = solver.solve(field, X0[:, :2], path.t_min, path.t_max)
        back = solver.solve(field, there.y, path.t_max, path.t_min)
        ends = [np.float64(f(jnp.float32(t))) for t in (path.t_min, path.t_max) for f in (path.alpha, path.sigma)]
        stds = [np.hypot(ends[i] * 0.4, ends[i + 1]) for i in (0, 2)]
        exact = ends[2] * oracle.means[0] + stds[1] / stds[0] * (np.float64(X0[:, :2]) - ends[0] * oracle.means[0])
        np.testing.assert_allclose(there.y, exact, atol=2e-5)
        np.testing.assert_allclose(back.y, X0[:, :2], atol=5e-5)
        calls[name] = np.array([there.num_evaluations, back.num_evaluations])
    assert np.all(calls["ddpm"] <= 1.2 * calls["vp"])


@pytest.mark.parametrize(
    "fields", [{"num_scales": 2}, {"num_scales": 3, "beta_last": 0.999}, {"num_scales": 4, "beta_last": 0.9}]
)
def test_ddpm_goes_one_way_however_few_its_steps(fields):
    path = PATHS["ddpm"](**fields)
    alpha = np.asarray(path.alpha(jnp.linspace(0, 1, 1001)))
    assert np.all(np.diff(alpha) > -1e-7)
    slopes = np.asarray(jax.vmap(jax.grad(path._log_alpha))(jnp.linspace(0, 1, path.num_scales)))
    assert np.all(slopes > 0)
    betas = np.linspace(1e-4, path.beta_last, path.num_scales)
    np.testing.assert_allclose(alpha[[0, -1]] ** 2, np.cumprod(1 - betas)[[-1, 0]], rtol=1e-5)


@pytest.mark.parametrize("predicts", KINDS)
@pytest.mark.parametrize(("name", "told"), [("linear", "t"), ("vp", "reversed"), ("ve", "sigma"), ("sub_vp", "t")])
@pytest.mark.parametrize("unit_range", [False, True])
def test_networks_of_every_kind_mean_the_same_drift(name, predicts, told, unit_range):
    """A network that answers exactly in its own terms (prediction, time, range of the data) gives the oracle in ours."""
    path = PATH_OF[name]
    oracle = oracles.three_modes(path)
    x = path.interpolant(T, X0, X1)
    data, noise = oracle.data_and_noise(x, T)
    truth = {"velocity": oracle.velocity(x, T), "data": data, "noise": noise, "score": oracle.score(x, T)}
    seen = {}

    def network(given, time, condition):
        seen.update(x=given, t=time)
        output = truth[predicts]
        if not unit_range:
            return output
        return {"velocity": output / 2, "data": (output + 1) / 2, "noise": output, "score": output * 2}[predicts]

    drift = NetworkDrift(network, path, Parameterization(predicts=predicts, told=told, unit_range=unit_range))
    scale = 10.0 if name == "ve" else 1.0
    for kind in KINDS:
        size = max(1.0, float(jnp.max(jnp.abs(truth[kind]))))
        np.testing.assert_allclose(
            drift.predict(kind, x, T, None), truth[kind], atol=2e-3 * size * scale, rtol=2e-3 * scale
        )
    np.testing.assert_allclose(drift(x, T, None), drift.predict("velocity", x, T, None))
    time = {"t": T, "reversed": 1 - T, "sigma": path.sigma(T) * (0.5 if unit_range else 1.0)}[told]
    np.testing.assert_allclose(seen["t"], time, rtol=1e-6)
    np.testing.assert_allclose(seen["x"], (x + 1) / 2 if unit_range else x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("path", AFFINE)
@pytest.mark.parametrize("latent", ["none", "sine"])
def test_a_scaled_input_is_of_order_one(path, latent):
    """Over sqrt(alpha^2 + sigma^2), the deviation of x_t where data and noise have variance 1; the answer is of x_t itself."""
    path = path if latent == "none" else type(path)(latent=latent, latent_scale=0.7)
    seen = {}

    def network(x, t, condition):
        seen.update(x=x)
        return jnp.concatenate([x, x], -1) if latent != "none" else x

    x = 3.0 * X0
    NetworkDrift(network, path, Parameterization(scale_input=True))(x, T, None)
    variance = sum(np.square(f(T), dtype=np.float64) for f in (path.alpha, path.sigma, path.gamma))
    np.testing.assert_allclose(seen["x"], np.asarray(x) / np.sqrt(variance)[:, None], rtol=1e-5)


def test_two_heads_give_drift_and_score_between_gaussians_of_data():
    """N(a, r^2) to N(b, s^2) with a latent: everything given x_t is a linear regression, written out here."""
    a, r, b, s = -1.0, 0.5, 2.0, 0.8
    path = LinearPath(gaussian_source=False, latent="sine", latent_scale=0.6)
    t = T[:, None]
    gamma = 0.6 * jnp.sin(jnp.pi * t) ** 2
    slope = 0.6 * 2 * jnp.pi * jnp.sin(jnp.pi * t) * jnp.cos(jnp.pi * t)
    mean = (1 - t) * a + t * b
    variance = (1 - t) ** 2 * r**2 + t**2 * s**2 + gamma**2
    x = mean + jnp.sqrt(variance) * X0[:, :1]
    v = (b - a) + (t * s**2 - (1 - t) * r**2) / variance * (x - mean)
    eta = gamma / variance * (x - mean)
    drift = NetworkDrift(lambda x, t, c: jnp.concatenate([v, eta], -1), path)
    # The drift carries x_t's mean and standard deviation along: (log std)' (x - mean) + mean'.
    deviation = 0.5 * (2 * t * s**2 - 2 * (1 - t) * r**2 + 2 * gamma * slope) / variance
    np.testing.assert_allclose(drift(x, T, None), (b - a) + deviation * (x - mean), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(drift.predict("score", x, T, None), -(x - mean) / variance, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="no score"):
        drift.predict("data", x, T, None)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: of_config(LinearPath, latent="wavy"), "latent is 'wavy', expected one of none"),
        (lambda: LinearPath(latent="brownian"), "derivative is infinite"),
        (lambda: LinearPath(latent="sine", latent_scale=0.0), "expected a positive number"),
        (lambda: PATHS["vp"](t_max=1.0), "t_max is 1.0, expected less than 1"),
        (lambda: PATHS["vp"](beta_min=30.0), "expected 0 < min < max"),
        (lambda: PATHS["ve"](sigma_min=200.0), "expected 0 < min < max"),
        (lambda: PATHS["ve"](sigma_min=0.0), "sigma_min is 0.0, expected a positive number"),
        (lambda: PATHS["ddpm"](num_scales=1), "expected at least 2"),
        (lambda: PATHS["learned"](num_terms=0), "expected at least 1"),
        (lambda: of_config(Parameterization, predicts="energy"), "predicts is 'energy', expected one of velocity"),
        (lambda: of_config(Parameterization, told="age"), "told is 'age', expected one of t, reversed"),
        (
            lambda: Parameterization(predicts="noise").check_path(LinearPath(latent="sine")),
            "it has to be 'velocity'",
        ),
        (lambda: Parameterization(predicts="score").check_path(LinearPath(gaussian_source=False)), "there is none"),
        (
            lambda: Parameterization(predicts="noise").check_path(LinearPath()),
            "at t_min = 0.0: set config.path.t_min to",
        ),
        (
            lambda: Parameterization(predicts="score").check_path(LinearPath(t_min=0.1)),
            "at t_max = 1.0: set config.path.t_max",
        ),
        (lambda: Parameterization(predicts="data").check_path(PATHS["trigonometric"]()), "at t_max = 1.0"),
    ],
)
def test_what_means_nothing_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("path", AFFINE)
@pytest.mark.parametrize("latent", ["none", "sine"])
def test_time_at_a_level_is_the_inverse(path, latent):
    path = path if latent == "none" else type(path)(latent=latent, latent_scale=0.3)
    levels = jnp.linspace(-3.0, 3.0, 7)
    t = path.time_at(levels)
    np.testing.assert_allclose(path.log_snr(t), levels, atol=2e-3)
    assert (jnp.diff(t) > 0).all()
    np.testing.assert_allclose(path.time_at(jnp.asarray([-1e3, 1e3])), [path.t_min, path.t_max], atol=1e-6)
