"""Improved precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991): fidelity and coverage apart."""

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
    """A set's neighbourhood is the union of balls around its vectors, each up to its k-th nearest other one (eq. 1 to 3).

    Raises:
        UserError: a set has no more than k vectors.
    """
    if min(len(generated), len(real)) <= k:
        raise UserError(
            f"precision and recall of {len(generated)} and {len(real)} images with k = {k}: expected more than {k} in each set"
        )
    # The distances' rounding error grows with the vectors' length, so both are centered on one point.
    center = np.asarray(np.mean(real, axis=0, dtype=np.float64), np.float32)
    return PrecisionRecall(_covered(generated, real, center, k), _covered(real, generated, center, k))


def _covered(points: Features, reference: Features, center: Float[np.ndarray, " features"], k: int) -> float:
    """The share of points within the balls of the reference, which alone is on the device, and once."""
    held = jnp.asarray(np.asarray(reference, np.float32) - center)
    # The nearest vector of the set itself is the vector.
    radii = np.concatenate([np.asarray(_nearest(block, held, k + 1)) for block in _blocks(reference, center)])
    kept = jnp.asarray(radii[: len(reference)])
    inside = np.concatenate([np.asarray(_is_inside(block, held, kept)) for block in _blocks(points, center)])
    return float(np.mean(inside[: len(points)]))


def _blocks(x: Features, center: Float[np.ndarray, " features"]) -> Iterator[Features]:
    """Slices of one size, centered, the last one padded by repetition, so that one program serves all."""
    size = min(_BLOCK, len(x))
    for first in range(0, len(x), size):
        yield np.asarray(x[np.minimum(np.arange(first, first + size), len(x) - 1)], np.float32) - center


def _squared_distances(a: Array, b: Array) -> Float[Array, "a b"]:
    product = jnp.matmul(a, b.T, precision="highest")
    return jnp.maximum(jnp.sum(a * a, 1)[:, None] + jnp.sum(b * b, 1)[None, :] - 2.0 * product, 0.0)


@jax.jit
def _is_inside(points: Array, reference: Array, radii: Array) -> Array:
    return jnp.any(_squared_distances(points, reference) <= radii[None, :], axis=1)


def _nearest_of(block: Array, reference: Array, count: int) -> Array:
    """Squared distances to the nearest vector number `count`."""
    return -jax.lax.top_k(-_squared_distances(block, reference), count)[0][:, -1]


_nearest = jax.jit(_nearest_of, static_argnums=2)
