"""Flow maps' losses: as printed for a linear field, stationary at the exact maps of Gaussians and mixtures, and only there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import flow_map
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import build
from scoreflow_jax.objectives import FlowMap, PathConstrained
from scoreflow_jax.paths import LinearPath, VPPath
from tests import oracles

KEYS = jax.random.split(jax.random.key(7), 4)
RULES = ["lagrangian", "semigroup", "eulerian"]


class Linear:
    """u = (a + b (s - t)) x, a drift a x and a map that is not its own."""

    def __init__(self, a, b=0.0):
        self.a, self.b = a, b

    def __call__(self, x, t, c):
        return self.a * x

    def mean_velocity(self, x, t, s, c, w=None):
        return (self.a + self.b * (s - t)[:, None]) * x


class Perturbed:
    """The exact drift and map of a mixture, to which theta adds something that is 0 for s = t."""

    def __init__(self, mixture, to, theta):
        self.mixture, self.to, self.theta = mixture, to, theta

    def __call__(self, x, t, c):
        return self.mixture.velocity(x, t)

    def mean_velocity(self, x, t, s, c, w=None):
        length = (s - t)[:, None]
        return (self.to(x, t, s) - x) / length + self.theta * length * jnp.sin(2 * x + t[:, None])


def gaussian_map(mixture, x, t, s):
    """m_s + (std_s / std_t) (x - m_t), the flow of N(m, s^2 I) along an affine path."""
    mean = lambda t: mixture.path.alpha(t)[:, None] * jnp.asarray(mixture.means)
    std = lambda t: jnp.hypot(mixture.path.alpha(t) * mixture.stds[0], mixture.path.sigma(t))[:, None]
    return mean(s) + std(s) / std(t) * (x - mean(t))


def fine_map(mixture, x, t, s, steps=64):
    """By classical Runge-Kutta steps, 64 of which are exact to 1e-5."""
    h = (s - t) / steps

    def step(i, x):
        f, now = lambda x, t: mixture.velocity(x, t), t + i * h
        k1 = f(x, now)
        k2 = f(x + 0.5 * h[:, None] * k1, now + 0.5 * h)
        k3 = f(x + 0.5 * h[:, None] * k2, now + 0.5 * h)
        k4 = f(x + h[:, None] * k3, now + h)
        return x + h[:, None] / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    return jax.lax.fori_loop(0, steps, step, x)


def drawn(n, dim, mixture=None):
    """x0, x1, t and s, at least 0.05 apart."""
    x0, x1 = (jax.random.normal(k, (n, dim)) for k in KEYS[:2])
    if mixture is not None:
        which = np.random.default_rng(0).choice(len(mixture.weights), n, p=mixture.weights / mixture.weights.sum())
        x1 = jnp.asarray(mixture.means)[which] + jnp.asarray(mixture.stds)[which][:, None] * x1
    t = jax.random.uniform(KEYS[2], (n,), minval=0.02, maxval=0.98)
    s = jax.random.uniform(KEYS[3], (n,), minval=0.02, maxval=0.98)
    return x0, x1, t, jnp.where(abs(s - t) < 0.05, jnp.where(t < 0.5, t + 0.1, t - 0.1), s)


def of_jumps(values, objective, s):
    """The rows with s other than t: half of them."""
    chosen = np.asarray(objective.jump_rows(s))
    assert chosen.sum() == len(s) / 2
    return values[chosen]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("path", [LinearPath(), VPPath()])
def test_value_for_a_linear_field(rule, path):
    """With u = a x the residuals are -a^2 (s - t) x, a quarter of it by halves; divided by a power of their square."""
    a, (x0, x1, t, s) = 0.7, drawn(8, 3)
    x = path.interpolant(t, x0, x1)
    square = np.mean((a**2 * (s - t)[:, None] * x * (0.25 if rule == "semigroup" else 1.0)) ** 2, axis=1)
    for power in (0.0, 0.5, 1.0):
        objective = FlowMap(path, rule=rule, normalize=power, normalize_floor=0.01, weight=3.0, ends=0.0)
        got = of_jumps(objective(Linear(a), x0, x1, t, None, s=s), objective, s)
        np.testing.assert_allclose(
            got, of_jumps(3.0 * square / (square + 0.01) ** power, objective, s), rtol=2e-4, atol=1e-7
        )


def test_value_of_meanflow_by_the_conditional_velocity():
    """u - v - (s - t) a v with v = x1 - x0, the identity as Geng et al. print it with r = s."""
    a, (x0, x1, t, s) = 0.7, drawn(8, 3)
    objective = FlowMap(LinearPath(), rule="eulerian", tangent="conditional", normalize=0.0, ends=0.0)
    x, v = (1 - t)[:, None] * x0 + t[:, None] * x1, x1 - x0
    expected = np.mean((a * x - v - (s - t)[:, None] * a * v) ** 2, axis=1)
    got = of_jumps(objective(Linear(a), x0, x1, t, None, s=s), objective, s)
    np.testing.assert_allclose(got, of_jumps(expected, objective, s), rtol=1e-4)


def test_value_of_the_way_there_and_back():
    """(1 - (s - t) a) (1 + (s - t) a) x is short of x by (s - t)^2 a^2 x; only the way back has a gradient."""
    a, (x0, x1, t, s) = 0.7, drawn(8, 3)
    x = (1 - t)[:, None] * x0 + t[:, None] * x1

    def reversal(a, weight):
        objective = FlowMap(LinearPath(), normalize=0.0, reversal=weight, ends=0.0)
        return of_jumps(objective(Linear(a), x0, x1, t, None, s=s), objective, s)

    h = (s - t)[:, None]
    expected = 0.3 * np.mean((h**2 * a**2 * x) ** 2, axis=1)
    chosen = of_jumps(expected, FlowMap(LinearPath()), s)
    np.testing.assert_allclose(reversal(a, 0.3) - reversal(a, 0.0), chosen, rtol=1e-3, atol=1e-6)
    slope = jax.grad(lambda a: jnp.sum(reversal(a, 0.3) - reversal(a, 0.0)))(a)
    by_hand = 0.3 * np.mean(2 * (-(h**2) * a**2 * x) * (-h * (1 + h * a) * x), axis=1)
    np.testing.assert_allclose(slope, of_jumps(by_hand, FlowMap(LinearPath()), s).sum(), rtol=1e-3)


@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("rule", RULES)
def test_where_gradients_go(rule, power):
    """Through the derivative by s in (2), in (3) and (4) through u(x, t, s) alone; never through what it is compared with or
    divided by."""
    a, b, (x0, x1, t, s) = 0.7, 0.2, drawn(8, 3)
    objective = FlowMap(LinearPath(), rule=rule, normalize=power, normalize_floor=0.01, ends=0.0)
    x, h = ((1 - t)[:, None] * x0 + t[:, None] * x1), (s - t)[:, None]
    loss = lambda a, b: jnp.sum(of_jumps(objective(Linear(a, b), x0, x1, t, None, s=s), objective, s))
    u, there = (a + b * h) * x, x + h * (a + b * h) * x
    if rule == "lagrangian":
        residual, by_a, by_b = (a + 2 * b * h) * x - a * there, x, 2 * h * x
    elif rule == "semigroup":
        first = (a + b * h / 2) * x
        residual, by_a, by_b = u - 0.5 * (first + (a + b * h / 2) * (x + h / 2 * first)), x, h * x
    else:
        residual, by_a, by_b = u - (a * x + h * ((a + b * h) * a * x - b * x)), x, h * x
    size = (np.mean(np.square(residual), axis=1) + 0.01) ** power
    expected = [of_jumps(np.mean(2 * residual * by, axis=1) / size, objective, s).sum() for by in (by_a, by_b)]
    np.testing.assert_allclose(jax.grad(loss, (0, 1))(a, b), expected, rtol=1e-3)


@pytest.mark.parametrize("forwards", [True, False])
@pytest.mark.parametrize("rule", [*RULES, "conditional"])
@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_stationary_at_the_exact_map_and_only_there(kind, rule, forwards):
    """The loss's gradient by the size of a perturbation is 0 at the exact map, within what sampling leaves, and not beside it."""
    if kind == "gaussian":
        mixture, to, n = oracles.gaussian(VPPath(), [1.0, -0.5], 0.4), gaussian_map, 60_000
    else:
        mixture, to, n = oracles.three_modes(LinearPath(), 2), functools.partial(fine_map), 4_000
    x0, x1, t, s = drawn(n, 2, mixture)
    t, s = (jnp.minimum(t, s), jnp.maximum(t, s)) if forwards else (jnp.maximum(t, s), jnp.minimum(t, s))
    fields = (
        {"rule": "eulerian", "tangent": "conditional", "normalize": 0.0}
        if rule == "conditional"
        else {"rule": rule, "normalize": 1.0}
    )
    objective = FlowMap(mixture.path, normalize_floor=0.1, ends=0.0, **fields)

    def slopes(theta):
        """Of each jump."""
        rows = lambda theta: objective(Perturbed(mixture, functools.partial(to, mixture), theta), x0, x1, t, None, s=s)
        return of_jumps(np.asarray(jax.jit(jax.jacfwd(rows))(theta)), objective, s)

    at, beside = slopes(0.0), {theta: slopes(theta) for theta in (-0.3, 0.3)}
    error = at.std() / np.sqrt(len(at))
    assert abs(at.mean()) < 4 * error + 2e-3, (at.mean(), error)
    for theta, g in beside.items():
        assert np.sign(theta) * g.mean() > 4 * g.std() / np.sqrt(len(g)) + 1e-2, (theta, g.mean())


@pytest.mark.parametrize("path", [LinearPath(), VPPath()])
def test_a_share_of_the_jumps_begins_at_the_ends(path):
    """Of times spread evenly a fifth at each end, the others evenly between; the drift's rows keep theirs."""
    n, seen = 200, {"drift": [], "jumps": []}

    class Watching:
        def __call__(self, x, t, c):
            seen["drift"].append(t)
            return x

        def mean_velocity(self, x, t, s, c, w=None):
            seen["jumps"].append(t)
            return x

    span, x = path.t_max - path.t_min, jnp.ones((n, 1))
    t = path.t_min + span * (jnp.arange(n) // 2 + 0.5) / (n / 2)
    objective = FlowMap(path, rule="semigroup", ends=0.4)
    objective(Watching(), x, x, t, None, s=jax.random.uniform(KEYS[3], (n,)))
    np.testing.assert_allclose(seen["drift"][0], t[::2], atol=1e-6)
    begun = np.asarray(seen["jumps"][0])
    assert (np.sum(begun == np.float32(path.t_min)), np.sum(begun == np.float32(path.t_max))) == (20, 20)
    np.testing.assert_allclose(np.diff(begun[20:80]), span / 60, rtol=1e-3)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_rows_with_equal_times_have_the_loss_of_the_drift(share):
    """Some of every four, or two: the paper's loss of f, and no other row's."""
    x0, x1, t, s = drawn(16, 3)
    objective = FlowMap(LinearPath(), diagonal=share, weight_exponent=1.0, weight=0.0)
    got = np.asarray(objective(Linear(0.7, 5.0), x0, x1, t, None, s=s))
    drift = PathConstrained(LinearPath(), weight_exponent=1.0)(Linear(0.7), x0, x1, t, None)
    chosen = ~np.asarray(objective.jump_rows(s))
    assert chosen.reshape(-1, 4).sum(axis=1).tolist() == [4 * share] * 4
    np.testing.assert_allclose(got[chosen], drift[chosen], rtol=1e-5)
    assert not got[~chosen].any()


def test_every_class_of_a_balanced_batch_has_both_kinds_of_rows():
    """A batch whose rows take turns among two classes: of each nearly half are jumps, in every share of the batch."""
    s = jax.random.uniform(KEYS[3], (4000,))
    for share in (0.25, 0.5, 0.75):
        chosen = np.asarray(FlowMap(LinearPath(), diagonal=share).jump_rows(s))
        assert chosen.mean() == 1 - share
        for c in range(4):
            assert abs(chosen[c::4].mean() - (1 - share)) < 0.08
        low = np.asarray(s) < 0.5
        assert abs(chosen[low].mean() - chosen[~low].mean()) < 0.05, "nor does it depend on the second time"


def test_labels_and_both_times_go_with_their_rows():
    """A map by class, without which the residual would not be 0."""
    means, stds = [[2.0, 0.0], [-1.0, 1.0]], [0.4, 0.8]
    x0, x1, t, s = drawn(16, 2)
    label = jnp.arange(16) // 3 % 2

    class ByClass:
        def __call__(self, x, t, c):
            return oracles.class_gaussians(LinearPath(), means, stds)(x, t, c)

        def mean_velocity(self, x, t, s, c, w=None):
            both = [
                gaussian_map(oracles.gaussian(LinearPath(), m, d), x, t, s) for m, d in zip(means, stds, strict=True)
            ]
            return (jnp.where(c[:, None] == 0, *both) - x) / (s - t)[:, None]

    for rule in RULES:
        objective = FlowMap(LinearPath(), rule=rule, normalize=0.0, ends=0.0)
        assert float(of_jumps(objective(ByClass(), x0, x1, t, label, s=s), objective, s).max()) < 1e-6


def test_jumps_are_of_the_guided_ode():
    """f without a label plus w times what the label adds; u is told w. A linear field: f = a x with a label, b x without."""
    a, b, (x0, x1, t, s) = 0.7, -0.2, drawn(8, 3)
    w = jnp.linspace(1.0, 3.0, 8)

    class Both:
        def __call__(self, x, t, c):
            return (b if c is None else a) * x

        def mean_velocity(self, x, t, s, c, w=None):
            return (b + w * (a - b))[:, None] * x

    x, a_w = (1 - t)[:, None] * x0 + t[:, None] * x1, (b + w * (a - b))[:, None]
    expected = np.mean((a_w**2 * (s - t)[:, None] * x) ** 2, axis=1)
    for rule in ("lagrangian", "eulerian"):
        objective = FlowMap(LinearPath(), rule=rule, normalize=0.0, ends=0.0)
        got = of_jumps(objective(Both(), x0, x1, t, jnp.zeros(8, int), s=s, guidance=w), objective, s)
        np.testing.assert_allclose(got, of_jumps(expected, objective, s), rtol=1e-3)
        taught = objective(Both(), x0, x1, t, jnp.zeros(8, int), s=s, guidance=w, teacher=Both())
        np.testing.assert_allclose(of_jumps(taught, objective, s), of_jumps(expected, objective, s), rtol=1e-3)
    with pytest.raises(ValueError, match="guidance is of a rule that asks for the drift"):
        FlowMap(LinearPath(), rule="semigroup")(Both(), x0, x1, t, jnp.zeros(8, int), s=s, guidance=w)


def test_refusals():
    """A batch without such a share, errors that may not be divided by themselves, and a network that is told one time."""
    x0, x1, t, s = drawn(9, 3)
    with pytest.raises(ValueError, match="diagonal is 0.5, 1 of every 2 rows, but 9 rows are taken at a time"):
        FlowMap(LinearPath())(Linear(1.0), x0, x1, t, None, s=s)
    with pytest.raises(ValueError, match="tangent is 'conditional'"):
        FlowMap(LinearPath(), rule="eulerian", tangent="conditional", normalize=1.0)
    with pytest.raises(ValueError, match="tangent is 'conditional', but a teacher"):
        FlowMap(LinearPath(), rule="eulerian", tangent="conditional", normalize=0.0, teacher="runs/a")
    config = flow_map.get_config("digits")
    config.model.two_times = False
    with pytest.raises(UserError, match=r"set config.model.two_times=True"):
        build(config)
