"""Score and log density of a set of points smoothed by a Gaussian kernel, without a matrix of all pairs.

The density of y_1 .. y_m smoothed by N(0, s^2 I) is p(x) = (1/m) sum_j N(x; y_j, s^2 I), so that with
w = softmax_j(-|x - y_j|^2 / 2 s^2)

    score(x) = (sum_j w_j y_j - x) / s^2,      log p(x) = log sum_j exp(-|x - y_j|^2 / 2 s^2) - log m - (d/2) log(2 pi s^2).

The mean shift sum_j w_j y_j - x is s^2 times the score (Fukunaga and Hostetler 1975). |x|^2 is the same for all j: the
exponents are taken as (x . y_j - |y_j|^2 / 2) / s^2, products of matrices, in powers of two, with the points' mean as origin. A
block of x meets the blocks of y one after the other and keeps a running maximum of the exponents and, relative to it, the sum of
the weights and of the weighted points (the online softmax of Milakov and Gimelshein 2018, arXiv:1805.02867).

Rounding leaves an exponent off by about 1e-7 |x| |y| / s^2, distances from the points' mean: with |x| = |y| = 4.3, the mean of
the digits', by a hundredth at s = 0.014.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scoreflow_jax.typing import PerExample, PointSet, State, Time

_LOWEST = -0.5 * float(jnp.finfo(jnp.float32).max)  # below any exponent, and finite: no maximum is -inf
_LOG2_E = math.log2(math.e)
_LANES = 16  # blocks are multiples of it

Vectors = Float[Array, "_ _"]
Numbers = Int[Array, " _"]
Numbered = Float[Array, " _"]
Kept = tuple[Numbered, Vectors]


class Smoothed(NamedTuple):
    """What is known of a smoothed density at points x.

    Attributes:
        score: grad log p, of x's shape.
        log_density: log p in nats.
    """

    score: State
    log_density: PerExample


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How many pairs are held at a time: at 1024 x 1024 they and their points stay in a core's second cache.

    Attributes:
        rows: most of the x.
        columns: most of the y.
    """

    rows: int = 1024
    columns: int = 1024


@functools.partial(jax.jit, static_argnames=("exclude_self", "blocks"))
def smoothed_density(
    x: State, y: PointSet, bandwidth: float | Time, *, exclude_self: bool = False, blocks: Blocks = Blocks()
) -> Smoothed:
    """Score and log density at x of the points y smoothed by N(0, bandwidth^2 I).

    Args:
        x: where to evaluate.
        y: the points, of the same dimension.
        bandwidth: s.
        exclude_self: leave y_i out at x_i: the density of the other points. There are then as many x as y, two at least.
        blocks: how to cut both.

    Raises:
        ValueError: x and y of different dimension, no y, or with `exclude_self` not as many y as x.
    """
    _check(x, y, exclude_self)
    dim, count = math.prod(x.shape[1:]), len(y) - exclude_self
    variance = jnp.asarray(bandwidth, jnp.float32) ** 2
    points = y.reshape(len(y), dim)
    center = jnp.mean(points, axis=0, keepdims=True)
    points, at = points - center, x.reshape(len(x), dim) - center
    highest, total, weighted = _weights(at, points, variance, exclude_self, blocks)
    score = (weighted / total[:, None] - at) / variance
    log_sum = (highest + jnp.log2(total)) / _LOG2_E - 0.5 * jnp.sum(at**2, axis=1) / variance
    log_density = log_sum - math.log(count) - 0.5 * dim * jnp.log(2 * math.pi * variance)
    return Smoothed(score.reshape(x.shape), log_density)


def _check(x: State, y: PointSet, exclude_self: bool) -> None:
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"x and y have shapes {x.shape[1:]} and {y.shape[1:]}, expected the same")
    if exclude_self and (len(x) != len(y) or len(y) < 2):
        raise ValueError(
            f"got {len(x)} x and {len(y)} y, expected as many of each, two at least, to leave out each its own"
        )
    if not len(y):
        raise ValueError("got no points, which have no density")


def _weights(
    at: Vectors, points: Vectors, variance: Time, exclude_self: bool, blocks: Blocks
) -> tuple[Numbered, Numbered, Vectors]:
    """For each x the highest exponent in powers of two, and relative to it the sum of the weights and of the weighted points."""
    rows = _cut(at * (_LOG2_E / variance), blocks.rows)
    half_squares = 0.5 * _LOG2_E / variance * jnp.sum(points**2, axis=1)
    with_one = jnp.concatenate([points, jnp.ones((len(points), 1))], axis=1)  # one product sums points and weights
    columns = (_cut(with_one, blocks.columns), _cut(half_squares, blocks.columns, jnp.inf))
    numbers = [jnp.arange(math.prod(cut.shape[:2])).reshape(cut.shape[:2]) for cut in (rows, columns[0])]

    def of_rows(row: tuple[Vectors, Numbers]) -> Kept:
        """A block of x against all blocks of y."""
        start = (jnp.full(len(row[0]), _LOWEST), jnp.zeros((len(row[0]), with_one.shape[1])))
        take_in = lambda kept, block: (_take_in(kept, row, block, exclude_self), None)  # noqa: E731
        return jax.lax.scan(take_in, start, (*columns, numbers[1]))[0]

    highest, sums = jax.lax.map(of_rows, (rows, numbers[0]))
    highest, sums = highest.reshape(-1)[: len(at)], sums.reshape(-1, with_one.shape[1])[: len(at)]
    return highest, sums[:, -1], sums[:, :-1]


def _take_in(
    kept: Kept, row: tuple[Vectors, Numbers], block: tuple[Vectors, Numbered, Numbers], exclude_self: bool
) -> Kept:
    """The highest exponent and the sums with one more block of y."""
    (highest, sums), (x, own), (y, half_squares, theirs) = kept, row, block
    exponents = jnp.matmul(x, y[:, :-1].T, precision="highest") - half_squares[None]
    if exclude_self:
        exponents = jnp.where(own[:, None] == theirs[None], -jnp.inf, exponents)
    now = jnp.maximum(highest, jnp.max(exponents, axis=1))
    weights = jnp.exp2(exponents - now[:, None])
    return now, sums * jnp.exp2(highest - now)[:, None] + jnp.matmul(weights, y, precision="highest")


def _cut(array: Array, most: int, padding: float = 0.0) -> Array:
    """Cuts into blocks of equal size, (blocks, size, ...), the last one padded."""
    number = -(-len(array) // most)
    size = -(-len(array) // (number * _LANES)) * _LANES
    widths = [(0, number * size - len(array))] + [(0, 0)] * (array.ndim - 1)
    return jnp.pad(array, widths, constant_values=padding).reshape(number, size, *array.shape[1:])
