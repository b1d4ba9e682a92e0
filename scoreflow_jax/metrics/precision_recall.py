"""Improved precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991): fidelity and coverage apart."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scoreflow_jax.errors import UserError

Features = Float[np.ndarray, "_ features"]
NEIGHBOURS = 3  # k, as published
_BLOCK = 512  # vectors whose distances to a whole set are held at a time


class PrecisionRecall(NamedTuple):
    """Both in [0, 1].

    Attributes:
        precision: the share of generated vectors within the real ones' neighbourhood.
        recall: the share of real vectors within the generated ones'.
    """

    precision: float
    recall: float


def precision_recall(generated: Features, real: Features, k: int = NEIGHBOURS) -> PrecisionRecall:
    """Finds the share of each set within the other's neighbourhood.

    A set's neighbourhood is the union of balls around its vectors, each up to its k-th nearest other one (eq. 1 to 3).

    Args:
        generated: the samples' features.
        real: the features of real images.
        k: which neighbour is on the edge of a ball.

    Raises:
        UserError: a set has no more than k vectors.
    """
    if min(len(generated), len(real)) <= k:
        raise UserError(
            f"precision and recall of {len(generated)} and {len(real)} images with k = {k}: expected more than {k} in each set"
        )
    # Products of vectors far from the origin lose digits, so one factor is centered; the other stays as it is, uncopied.
    center = np.asarray(np.mean(real, axis=0, dtype=np.float64), np.float32)
    return PrecisionRecall(_covered(generated, real, center, k), _covered(real, generated, center, k))


def _covered(points: Features, reference: Features, center: Float[np.ndarray, " features"], k: int) -> float:
    """The share of points within the balls of the reference, of which alone a whole set is on the device."""
    held = jnp.asarray(reference, jnp.float32)
    norms = np.concatenate([np.sum(np.square(block), axis=1) for block in _blocks(reference, center)])[: len(reference)]
    around = functools.partial(_squared_distances, reference=held, norms=jnp.asarray(norms), center=jnp.asarray(center))
    # The nearest vector of the set itself is the vector.
    radii = np.concatenate([np.asarray(_nearest(around(block), k + 1)) for block in _blocks(reference, center)])
    kept = jnp.asarray(radii[: len(reference)])
    inside = np.concatenate([np.asarray(_is_inside(around(block), kept)) for block in _blocks(points, center)])
    return float(np.mean(inside[: len(points)]))


def _blocks(x: Features, center: Float[np.ndarray, " features"]) -> Iterator[Features]:
    """Slices of one size, centered, the last one padded by repetition, so that one program serves all."""
    size = min(_BLOCK, len(x))
    for first in range(0, len(x), size):
        yield np.asarray(x[np.minimum(np.arange(first, first + size), len(x) - 1)], np.float32) - center


@jax.jit
def _squared_distances(block: Array, reference: Array, norms: Array, center: Array) -> Float[Array, "block reference"]:
    """|a - b|^2 = |a - c|^2 + |b - c|^2 - 2 (a - c).(b - c), for a - c and |b - c|^2 given."""
    product = jnp.matmul(block, reference.T, precision="highest")
    product = product - jnp.matmul(block, center, precision="highest")[:, None]
    return jnp.maximum(jnp.sum(block * block, 1)[:, None] + norms[None, :] - 2.0 * product, 0.0)


@jax.jit
def _is_inside(distances: Array, radii: Array) -> Array:
    return jnp.any(distances <= radii[None, :], axis=1)


@functools.partial(jax.jit, static_argnums=1)
def _nearest(distances: Array, count: int) -> Array:
    """The distance number `count` of each row, by that many passes: XLA's top_k sorts, which takes ten times as long on CPU."""
    rows = jnp.arange(len(distances))
    for _ in range(count - 1):
        distances = distances.at[rows, jnp.argmin(distances, axis=1)].set(jnp.inf)
    return jnp.min(distances, axis=1)
