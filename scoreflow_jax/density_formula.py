"""Log densities of given points from scores alone: no divergence, no ODE (Li and Yan 2024, arXiv:2408.16765).

On a path x_t = alpha x1 + sigma x0 from Gaussian noise write l = log(alpha^2 / sigma^2), which rises with t, and n(x_t, t) for
the expected noise E[x0 | x_t] = -sigma score. In the paper's time s = sigma^2 / (alpha^2 + sigma^2), where ds = -s (1 - s) dl,
its formula

    log p(x) = -d/2 (1 + log 2 pi) - integral over [0, 1] of {E|(X_s - sqrt(1 - s) x) / s + score_s(X_s)|^2 / (2 (1 - s))
                                                              - d / (2 s)} ds

becomes, with x0 ~ N(0, I) and d the dimension of x,

    (1)  log p(x) = -d/2 (1 + log 2 pi) - 1/2 integral of {E|x0 - n(alpha x + sigma x0, t)|^2 - d (1 - s)} dl

over all l. Of a Gaussian N(m, v) all of it is known, n_G(x_t, t) = sigma (x_t - alpha m) / (sigma^2 + alpha^2 v), and with that
as the reference

    (2)  log p(x) = log N(x; m, v) - 1/2 integral of E{|x0 - n|^2 - |x0 - n_G|^2} dl,

whose integrand vanishes at both ends: at pure noise if mean and variance are the data's, at the data as the noise does.
What lies below the least level, where all is noise, is the reference's. What lies beyond the last level L, where the path ends,
is not: there too data sharper than the reference stand out more from noise. Let q(l) = E|x0 - n|^2 / d in the mean over data, so
m = exp(-l) q is the error of the expected data. With r = exp(l) the derivative dm/dr is -E|Cov(x1 | x_t)|^2 / d <= -m^2, with
equality for a Gaussian: beyond L the error is no greater than that of the Gaussian which has the same one at L (the single
crossing of Guo et al. 2011, for vectors Bustin et al. 2012, arXiv:1203.5638). So the mean of log p over data is higher than (2)
stopped at L by at least

    (3)  d/2 {ln[(1 + w / S^2) / (1 + w / v)] + (E(x - m)^2 / v - 1) w / (w + v)},    w = exp(-L),  1 + w / S^2 = 1 / q(L),

which is exact for Gaussian data, of deviation S; its last part is 0 where the reference has the data's variance. It holds of the
mean over data, and so is stated apart from single densities.

A learned n gives a lower bound of the log density of the *SDE* that runs on its score, not the density of its ODE
(`likelihood.py`): the gap is the SDE's expected error, and only exact scores close it.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scoreflow_jax.ode import Solution
from scoreflow_jax.paths import AffinePath
from scoreflow_jax.paths.base import per_example
from scoreflow_jax.randomness import key_of
from scoreflow_jax.sampling.stochastic import Keys, Predictor
from scoreflow_jax.typing import Condition, PerExample, State

LEVELS = ("uniform", "logistic", "tabulated")
"""How levels l are drawn: uniform in the paper's time s, which is a logistic l of scale 1; logistic of another scale, whose
heavier tails the integrand's variance needs; or as a table says, made for one model by `tabulate`."""

PLACEMENTS = ("independent", "stratified", "low_discrepancy")
"""How a replicate's levels lie: apart from each other, one in each of equal parts, or in equal steps from one random start."""

REFERENCES = ("none", "noise", "gaussian")
"""What is subtracted from |x0 - n|^2: the d (1 - s) of (1) alone; that and (1 - s)^2 (|x0|^2 - d), of mean 0, without which the
variance is infinite at the data; or a Gaussian's |x0 - n_G|^2 as in (2)."""

_RANGE = 16.0  # levels |l| beyond it are the reference's: noise of a 3,000th part of the data, or the reverse


@dataclasses.dataclass(frozen=True, kw_only=True)
class DensityFormula:
    """How the integral is estimated.

    Attributes:
        num_calls: network calls for each example, all replicates and both signs of the noise together.
        replicates: estimates made independently, whose scatter is the standard error.
        levels: a name in `LEVELS`.
        scale: of logistic levels.
        placement: a name in `PLACEMENTS`.
        antithetic: each noise with its negative, which cancels what is odd in it.
        reference: a name in `REFERENCES`.
        tail: whether the error at the last level is measured too, for (3): as many network calls more as `unit`.

    Raises:
        ValueError: an unknown name, or numbers out of range.
    """

    num_calls: int = 256
    replicates: int = 8
    levels: str = "logistic"
    scale: float = 3.0
    placement: str = "stratified"
    antithetic: bool = True
    reference: str = "gaussian"
    tail: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        for name, value, names in (
            ("levels", self.levels, LEVELS),
            ("placement", self.placement, PLACEMENTS),
            ("reference", self.reference, REFERENCES),
        ):
            if value not in names:
                raise ValueError(f"{name} is {value!r}, expected one of {', '.join(names)}")
        if not self.scale > 0:
            raise ValueError(f"scale is {self.scale}, expected a positive number")
        if self.replicates < 2:
            raise ValueError(f"replicates is {self.replicates}, expected at least 2: their scatter is the error")
        if self.num_calls < 1 or self.num_calls % self.unit:
            raise ValueError(
                f"num_calls is {self.num_calls}, expected a multiple of {self.unit}: {self.replicates} replicates"
                + (" of pairs" if self.antithetic else "")
            )

    @property
    def unit(self) -> int:
        """Calls of one level in every replicate."""
        return self.replicates * (1 + self.antithetic)

    @property
    def num_levels(self) -> int:
        """Levels of a replicate."""
        return self.num_calls // self.unit

    @property
    def tail_calls(self) -> int:
        """Network calls at the last level, besides `num_calls`."""
        return self.unit if self.tail else 0


class Reference(NamedTuple):
    """The reference N(mean, diag(variance)), each a number or of the shape of an example."""

    mean: Float[Array, "..."] | Float[np.ndarray, "..."] | float = 0.0
    variance: Float[Array, "..."] | Float[np.ndarray, "..."] | float = 1.0


STANDARD = Reference()


class LevelTable(NamedTuple):
    """A density of levels, constant between neighbours of `edges`, with the logarithm of its value in each piece."""

    edges: Float[Array, " edges"] | Float[np.ndarray, " edges"]
    log_density: Float[Array, " pieces"] | Float[np.ndarray, " pieces"]


def level_range(path: AffinePath) -> tuple[float, float]:
    """The least and the largest level that are drawn on a path.

    Raises:
        ValueError: its source is not Gaussian.
    """
    if not path.gaussian_source:
        raise ValueError("the density formula needs a score, and so a path from Gaussian noise")
    with jax.ensure_compile_time_eval():
        ends = [float(path.log_snr(jnp.float32(t))) for t in (path.t_min, path.t_max)]
    return max(ends[0], -_RANGE), min(ends[1], _RANGE)


def formula_log_density(
    predict: Predictor,
    path: AffinePath,
    x: State,
    condition: Condition | None,
    keys: Keys,
    formula: DensityFormula,
    *,
    reference: Reference = STANDARD,
    table: LevelTable | None = None,
    num_levels: Int[Array, ""] | None = None,
) -> Solution:
    """log p(x | condition) by (1) or (2), with its standard error.

    Args:
        predict: what the network says; the noise is asked for.
        path: that it was trained on, from Gaussian noise.
        x: data.
        condition: of each example.
        keys: of `sampling.sample_keys`: the same key gives the same levels and noise, whatever the condition.
        formula: how.
        reference: of (2), and of what lies beyond the path's ends.
        table: of levels "tabulated".
        num_levels: of a replicate, in place of the formula's: traced, so that one program serves every number of calls.

    Returns:
        The solution with y = (log density in nats up to the last level (batch,), its standard error (batch,), q of each example
        at that level (batch,), which `tail` takes and which is NaN unless the formula asks for it).

    Raises:
        ValueError: the source is not Gaussian, or "tabulated" without a table or the reverse.
    """
    if (table is not None) != (formula.levels == "tabulated"):
        raise ValueError(f"levels is {formula.levels!r}: a table goes with 'tabulated', and only with it")
    low, high = level_range(path)
    signs = 1 + formula.antithetic
    count = jnp.asarray(formula.num_levels if num_levels is None else num_levels, jnp.int32)

    def add(call: Array, sums: Float[Array, "replicates batch"]) -> Float[Array, "replicates batch"]:
        """Adds a call to the replicate that it belongs to; with both signs, the second one has the first one's draw."""
        k, sign = call // signs, 1.0 - 2.0 * (call % signs)
        replicate, place = k // count, k % count
        level, log_density = _draw_levels(
            _places(keys, k, replicate, place / count, 1.0 / count, formula), low, high, formula, table
        )
        noise = sign * _noise(keys, k, x.shape[1:])
        value = excess(predict, path, x, condition, level, noise, formula.reference, reference)
        return sums.at[replicate].add(value * jnp.exp(-log_density))

    def add_last(call: Array, sums: tuple[PerExample, PerExample]) -> tuple[PerExample, PerExample]:
        """Adds |x0 - n|^2 and |x0|^2 at the last level."""
        k, sign = formula.replicates * count + call // signs, 1.0 - 2.0 * (call % signs)
        noise = sign * _noise(keys, k, x.shape[1:])
        t = path.time_at(jnp.full(x.shape[:1], high))
        x_t = per_example(path.alpha(t), x) * x + per_example(path.noise_std(t), x) * noise
        expected = predict("noise", x_t, t, condition)
        return sums[0] + _sum(jnp.square(noise - expected)), sums[1] + _sum(jnp.square(noise))

    calls = formula.replicates * count * signs
    sums = jax.lax.fori_loop(0, calls, add, jnp.zeros((formula.replicates, x.shape[0])))
    estimates = _closed_part(x, formula.reference, reference)[None] - 0.5 * sums / (signs * count)
    error = jnp.std(estimates, axis=0, ddof=1) / math.sqrt(formula.replicates)
    value = jnp.mean(estimates, axis=0)
    share = jnp.full(x.shape[:1], jnp.nan)
    if formula.tail:
        zeros = jnp.zeros(x.shape[:1])
        squares, of_noise = jax.lax.fori_loop(0, formula.tail_calls, add_last, (zeros, zeros))
        # As |x0|^2 is d in the mean, its excess is taken off as far as it is in the error: of a Gaussian q^2 times.
        total = formula.tail_calls * math.prod(x.shape[1:])
        share = (squares - jnp.square(squares / of_noise) * (of_noise - total)) / total
    return Solution.by_calls((value, error, share), calls + formula.tail_calls, value)


def tail(
    shares: Float[np.ndarray, " batch"],
    x: Float[np.ndarray, "batch ..."],
    path: AffinePath,
    kind: str = "gaussian",
    reference: Reference = STANDARD,
) -> tuple[float, float]:
    """(3) for each dimension, by which the mean of `formula_log_density` over data is too low at least, and its standard error.

    Args:
        shares: q of each example, of `formula_log_density`.
        x: the examples.
        path: that they are of.
        kind: the formula's reference, a name in `REFERENCES`; without a Gaussian it is N(0, I) at (1 - s) for any data.
        reference: the Gaussian.

    Returns:
        Both in nats; (nan, nan) where the network is so wrong at the last level that nothing can be said.
    """
    shares, noise = np.asarray(shares, np.float64), math.exp(-level_range(path)[1])
    q, error = shares.mean(), shares.std(ddof=1) / math.sqrt(len(shares)) if len(shares) > 1 else math.nan
    if not q > 0:
        return math.nan, math.nan
    mean, variance = (np.asarray(v, np.float64) for v in (reference if kind == "gaussian" else STANDARD))
    known = np.log1p(noise / variance)
    if kind == "gaussian":
        known = known - (np.square(x - mean) / variance - 1.0) * noise / (noise + variance)
    # Never less than 0: no estimate of the noise, the reference's among them, errs less than its expectation.
    return max(0.0, float(-0.5 * (math.log(q) + np.mean(known)))), float(0.5 * error / q)


def excess(
    predict: Predictor,
    path: AffinePath,
    x: State,
    condition: Condition | None,
    level: PerExample,
    noise: State,
    kind: str,
    reference: Reference,
) -> PerExample:
    """The braces of (1) and (2) for one draw of l and x0: |x0 - n|^2 less the reference's share of it.

    Args:
        predict: what the network says; the noise is asked for.
        path: that it was trained on, from Gaussian noise.
        x: the data.
        condition: of each example.
        level: l of each example.
        noise: x0, of the shape of x.
        kind: the formula's reference, a name in `REFERENCES`.
        reference: the Gaussian; for "gaussian" only.
    """
    t = path.time_at(level)
    alpha, sigma = (per_example(f(t), x) for f in (path.alpha, path.noise_std))
    x_t = alpha * x + sigma * noise
    expected = predict("noise", x_t, t, condition)
    if kind == "gaussian":
        mean, variance = _as_arrays(reference, x)
        gaussian = sigma * (x_t - alpha * mean) / (sigma**2 + alpha**2 * variance)
        # A difference of squares, by which large equal parts do not cancel.
        return _sum((gaussian - expected) * (2.0 * noise - expected - gaussian))
    data_share = jax.nn.sigmoid(level)  # 1 - s
    size = math.prod(x.shape[1:])
    known = size * data_share
    if kind == "noise":
        known = known + data_share**2 * (_sum(jnp.square(noise)) - size)
    return _sum(jnp.square(noise - expected)) - known


def tabulate(levels: Float[np.ndarray, " draws"], values: Float[np.ndarray, " draws"], edges: int = 33) -> LevelTable:
    """A density of levels in proportion to the root mean square of `excess`, which gives the least variance.

    Args:
        levels: drawn evenly over the range that is to be covered, whose ends are their extremes.
        values: `excess` at these, less its mean over noises where that is known.
        edges: of the table.
    """
    ends = np.linspace(levels.min(), levels.max(), edges)
    piece = np.clip(np.searchsorted(ends, levels, side="right") - 1, 0, edges - 2)
    count = np.maximum(np.bincount(piece, minlength=edges - 1), 1)
    size = np.sqrt(np.bincount(piece, np.square(values, dtype=np.float64), edges - 1) / count)
    # A part is spread evenly: a pilot of few draws may have missed something.
    weight = size + 0.1 * size.mean() + 1e-12
    density = weight / np.sum(weight * np.diff(ends))
    return LevelTable(ends.astype(np.float32), np.log(density).astype(np.float32))


def _places(keys: Keys, k: Array, replicate: Array, start: Array, width: Array, formula: DensityFormula) -> PerExample:
    """Uniform numbers in (0, 1), one for each example, as `placement` says; the k-th draw's part begins at `start`."""
    if formula.placement == "low_discrepancy":
        u = jnp.mod(start + _uniform(keys, replicate), 1.0)
    elif formula.placement == "stratified":
        u = start + width * _uniform(keys, k)
    else:
        u = _uniform(keys, k)
    return jnp.clip(u, 1e-7, 1.0 - 1e-7)


def _noise(keys: Keys, k: Array, shape: tuple[int, ...]) -> State:
    """The k-th noise of each example's key."""
    return jax.vmap(lambda data: jax.random.normal(_key(data, "formula noise", k), shape))(keys)


def _uniform(keys: Keys, k: Array) -> PerExample:
    """The k-th uniform number of each example's key."""
    return jax.vmap(lambda data: jax.random.uniform(_key(data, "formula level", k)))(keys)


def _key(data: Array, name: str, k: Array) -> Array:
    return jax.random.fold_in(key_of(jax.random.wrap_key_data(data), name), k)


def _draw_levels(
    u: PerExample, low: float, high: float, formula: DensityFormula, table: LevelTable | None
) -> tuple[PerExample, PerExample]:
    """Levels by their quantiles, and the logarithm of their density."""
    if table is not None:
        edges, log_density = jnp.asarray(table.edges), jnp.asarray(table.log_density)
        ends = jnp.concatenate([jnp.zeros(1), jnp.cumsum(jnp.exp(log_density) * jnp.diff(edges))])
        u = u * ends[-1]
        piece = jnp.clip(jnp.searchsorted(ends, u, side="right") - 1, 0, len(log_density) - 1)
        return edges[piece] + (u - ends[piece]) / jnp.exp(log_density[piece]), log_density[piece]
    scale = 1.0 if formula.levels == "uniform" else formula.scale
    first, last = (1.0 / (1.0 + math.exp(-end / scale)) for end in (low, high))
    at = first + u * (last - first)
    level = scale * (jnp.log(at) - jnp.log1p(-at))
    log_density = (
        jax.nn.log_sigmoid(level / scale) + jax.nn.log_sigmoid(-level / scale) - math.log(scale * (last - first))
    )
    return jnp.clip(level, low, high), log_density


def _closed_part(x: State, kind: str, reference: Reference) -> PerExample:
    """What stands before the integral of (1) or (2)."""
    if kind != "gaussian":
        return jnp.full(x.shape[:1], -0.5 * math.prod(x.shape[1:]) * (1.0 + math.log(2.0 * math.pi)))
    mean, variance = _as_arrays(reference, x)
    return -0.5 * _sum(jnp.square(x - mean) / variance + jnp.log(2.0 * math.pi * variance))


def _as_arrays(reference: Reference, x: State) -> tuple[Array, Array]:
    mean, variance = (jnp.broadcast_to(jnp.asarray(v, x.dtype), x.shape[1:])[None] for v in reference)
    return mean, variance


def _sum(x: State) -> PerExample:
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))
