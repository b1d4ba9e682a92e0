"""Improved precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991): fidelity and coverage apart."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scoreflow_jax.errors import UserError

Features = Float[np.ndarray, "_ features"]
NEIGHBOURS = 3  # k, as published
_BLOCK = 1024  # vectors whose distances to a whole set are held at a time


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
    ours, theirs = (jnp.asarray(x, jnp.float32) - center[None] for x in (generated, real))
    return PrecisionRecall(_covered(ours, theirs, k), _covered(theirs, ours, k))


def _covered(points: Array, reference: Array, k: int) -> float:
    """The share of points within the balls of the reference."""
    radii = jnp.concatenate([_kth_distance(block, reference, k) for block in _blocks(reference)])[: len(reference)]
    inside = np.concatenate([np.asarray(_is_inside(block, reference, radii)) for block in _blocks(points)])
    return float(np.mean(inside[: len(points)]))


def _blocks(x: Array) -> list[Array]:
    """Slices of one size, the last one padded by repetition, so that one program serves all."""
    size = min(_BLOCK, len(x))
    return [x[jnp.minimum(jnp.arange(i, i + size), len(x) - 1)] for i in range(0, len(x), size)]


def _squared_distances(a: Array, b: Array) -> Float[Array, "a b"]:
    product = jnp.matmul(a, b.T, precision="highest")
    return jnp.maximum(jnp.sum(a * a, 1)[:, None] + jnp.sum(b * b, 1)[None, :] - 2.0 * product, 0.0)


@jax.jit
def _is_inside(points: Array, reference: Array, radii: Array) -> Array:
    return jnp.any(_squared_distances(points, reference) <= radii[None, :], axis=1)


def _kth_distance(block: Array, reference: Array, k: int) -> Array:
    """Squared distances to the k-th nearest other vector; the nearest one is the vector itself."""
    return _nearest(block, reference, k + 1)


def _nearest_of(block: Array, reference: Array, count: int) -> Array:
    return -jax.lax.top_k(-_squared_distances(block, reference), count)[0][:, -1]


_nearest = jax.jit(_nearest_of, static_argnums=2)
