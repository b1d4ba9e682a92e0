"""The other losses: score matching as printed, the interpolants' two heads, a path that shortens itself, distillation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax.objectives import DenoisingScoreMatching, Distillation, Interpolant, turned
from scoreflow_jax.paths import PATHS, LearnedPath, LinearPath, NetworkDrift, Parameterization, TrigonometricPath
from scoreflow_jax.settings.train import OptimizerSettings
from scoreflow_jax.training import make_optimizer
from tests import oracles
from tests.changes import of_config

KEYS = jax.random.split(jax.random.key(4), 5)
X0, X1, Z = (jax.random.normal(k, (32, 3)) for k in KEYS[:3])
T = jnp.linspace(0.05, 0.95, 32)


def answer(x, t, c):
    """A network that is wrong everywhere."""
    return jnp.sin(3 * x) + t[:, None] * x


@pytest.mark.parametrize("name", ["vp", "sub_vp", "ve", "ddpm", "linear"])
@pytest.mark.parametrize("weight", ["variance", "likelihood"])
def test_denoising_score_matching_as_printed(name, weight):
    """w |s + z / std|^2 of a network that predicts noise, s = -noise / std."""
    path = PATHS[name]()
    drift = NetworkDrift(answer, path, Parameterization(predicts="noise"))
    std = np.asarray(path.sigma(T))[:, None]
    x_t = np.asarray(path.alpha(T))[:, None] * X1 + std * X0
    score = -np.asarray(answer(x_t, T, None)) / std
    w = std**2 if weight == "variance" else np.asarray(path.diffusion_squared(T))[:, None]
    expected = np.mean(w * (score + X0 / std) ** 2, axis=1)
    got = DenoisingScoreMatching(path, weight=weight)(drift, X0, X1, T, None)
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=1e-4)


def test_two_heads_learn_their_two_means():
    """Both are stationary at the means of a linear regression, and only there."""
    n, a, r, b, s = 200_000, -1.0, 0.5, 2.0, 0.8
    path = LinearPath(gaussian_source=False, latent="sine", latent_scale=0.6)
    x0, x1, z = (jax.random.normal(k, (n, 1)) for k in KEYS[:3])
    x0, x1, t = a + r * x0, b + s * x1, jax.random.uniform(KEYS[3], (n,))

    def losses(shifts):
        def network(x, t, c):
            t = t[:, None]
            gamma = 0.6 * jnp.sin(jnp.pi * t) ** 2
            variance = (1 - t) ** 2 * r**2 + t**2 * s**2 + gamma**2
            centred = x - (1 - t) * a - t * b
            v = (b - a) + (t * s**2 - (1 - t) * r**2) / variance * centred
            return jnp.concatenate(
                [v + shifts[0] * x + shifts[1], gamma / variance * centred + shifts[2] * x + shifts[3]], -1
            )

        return Interpolant(path)(NetworkDrift(network, path), x0, x1, t, None, z)

    for i in range(4):
        slopes = np.asarray(jax.jvp(losses, (jnp.zeros(4),), (jnp.eye(4)[i],))[1], np.float64)
        assert abs(slopes.mean()) < 4 * slopes.std() / np.sqrt(n)
        assert losses(0.3 * jnp.eye(4)[i]).mean() > losses(jnp.zeros(4)).mean()


def test_a_latent_needs_two_heads():
    with pytest.raises(ValueError, match="two outputs"):
        Interpolant(LinearPath(latent="sine"))(answer, X0, X1, T, None, None)


def length(values, mean):
    """The integral of E|v|^2 from N(0, 1) to N(mean, 1): mean^2 alpha'^2 + std'^2, by the midpoint rule."""
    path = LearnedPath(num_terms=len(values) // 2).with_parameters(values)
    t = (jnp.arange(2000) + 0.5) / 2000
    std = lambda t: jnp.sqrt(path.alpha(t) ** 2 + path.sigma(t) ** 2)
    slopes = [jax.jvp(f, (t,), (jnp.ones_like(t),))[1] for f in (path.alpha, std)]
    return jnp.mean(mean**2 * slopes[0] ** 2 + slopes[1] ** 2)


def test_the_path_gets_the_gradient_of_its_length():
    """With the best velocity at hand the path's numbers descend the closed form of the length."""
    n, mean = 400_000, 1.5
    values = jnp.array([0.05, -0.1, 0.15, 0.02])
    x0, x1 = (jax.random.normal(k, (n, 1)) for k in KEYS[:2])
    x1, t = mean + x1, jax.random.uniform(KEYS[2], (n,))
    best = oracles.gaussian(LearnedPath(num_terms=2).with_parameters(values), [mean], 1.0)

    def loss(values):
        path = LearnedPath(num_terms=2).with_parameters(turned(values))
        drift = NetworkDrift(lambda x, t, c: best.velocity(x, t), path)
        return jnp.mean(Interpolant(LearnedPath(num_terms=2))(drift, x0, x1, t, None))

    got, expected = jax.grad(loss)(values), jax.grad(length)(values, mean)
    np.testing.assert_allclose(got, expected, atol=0.03 * float(jnp.max(jnp.abs(expected))))


def test_descending_the_length_reaches_the_optimal_map():
    """To N(m, 1) no interpolant is shorter than m^2, and alpha = t, sigma = sqrt(1 - t^2) is that short."""
    values = jnp.zeros(16)
    sizes = 0.03 / jnp.tile(jnp.arange(1.0, 9.0), 2) ** 2  # high terms are steep
    step = jax.jit(lambda v: v - sizes * jax.grad(length)(v, 1.5))
    assert float(length(values, 1.5)) > 1.5**2 + 0.2
    for _ in range(500):
        values = step(values)
    assert 1.5**2 - 1e-4 < float(length(values, 1.5)) < 1.5**2 + 0.02
    path, t = LearnedPath(num_terms=8).with_parameters(values), jnp.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(path.alpha(t), t, atol=0.05)
    np.testing.assert_allclose(path.sigma(t), jnp.sqrt(1 - t**2), atol=0.08)


def test_turned_numbers_are_the_same_and_go_the_other_way():
    values = jnp.array([1.0, -2.0])
    np.testing.assert_allclose(turned(values), values, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda v: jnp.sum(turned(v) ** 2))(values), -2 * values, rtol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_the_paths_numbers_have_a_learning_rate_of_their_own(rate):
    """Adam's first step is the learning rate whatever the gradient's size: times `rate` for these, and as it is for the rest."""
    settings = OptimizerSettings(learning_rate=0.01, epsilon=1e-12, warmup_steps=0, clip_norm=0.0)
    optimizer = Interpolant(LearnedPath(), path_rate=rate).adapt_optimizer(make_optimizer(settings), "path")
    params = {"path": jnp.ones(2), "rest": jnp.ones(3)}
    grads = {"path": jnp.array([1e-3, -5.0]), "rest": jnp.array([2.0, -1e-4, 1.0])}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["path"], -0.01 * rate * np.sign(grads["path"]), rtol=1e-4)
    np.testing.assert_allclose(updates["rest"], -0.01 * np.sign(grads["rest"]), rtol=1e-4)


def test_distillation_compares_ends():
    seen = {}

    def lpips(a, b):
        seen.update(a=a, b=b)
        return jnp.mean(jnp.abs(a - b), axis=1)

    path, t = LinearPath(), T[:, None]
    x_t = (1 - t) * X0 + t * X1
    f = answer(x_t, T, None)
    got = Distillation(path, distance="lpips", lpips=lpips)(answer, X0, X1, T, None)
    np.testing.assert_allclose(seen["a"], x_t + (1 - t) * f, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(seen["b"], X1)
    np.testing.assert_allclose(got, np.abs(seen["a"] - X1).mean(1), rtol=1e-6)
    np.testing.assert_allclose(
        Distillation(path)(answer, X0, X1, T, None), jnp.mean((f - (X1 - X0)) ** 2, 1), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: DenoisingScoreMatching(LinearPath(gaussian_source=False)), "from Gaussian noise"),
        (
            lambda: of_config(DenoisingScoreMatching, path=LinearPath(), weight="flat"),
            "weight is 'flat', expected one of variance",
        ),
        (lambda: Interpolant(LinearPath(), path_rate=-1.0), "path_rate is -1.0"),
        (lambda: Interpolant(LearnedPath(latent="sine")), "is learned and has a latent"),
        (lambda: Distillation(TrigonometricPath()), "of the straight path"),
        (lambda: Distillation(LinearPath(), distance="lpips"), "needs its weights"),
        (
            lambda: of_config(Distillation, path=LinearPath(), distance="ssim"),
            "distance is 'ssim', expected one of l2, lpips",
        ),
    ],
)
def test_what_means_nothing_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
