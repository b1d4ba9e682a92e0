"""Embeddings of time."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from scoreflow_jax.typing import Times


def positional_embedding(values: Times, dim: int, *, max_period: float = 10_000.0) -> Float[Array, "batch dim"]:
    """Takes sines, then cosines of the values at dim / 2 frequencies from 1 down to 1 / max_period, even in the logarithm.

    score_sde's `get_timestep_embedding`, whose values count steps from 0 to 999.

    Args:
        values: one for each example.
        dim: numbers of the result, even and at least 4.
        max_period: the inverse of the lowest frequency.

    Raises:
        ValueError: an odd dim, or one below 4.
    """
    if dim % 2 or dim < 4:
        raise ValueError(f"a positional embedding of dimension {dim}: expected an even number of at least 4")
    half = dim // 2
    frequencies = jnp.exp(-math.log(max_period) / (half - 1) * jnp.arange(half, dtype=jnp.float32))
    angles = values[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def fourier_embedding(values: Times, frequencies: Float[Array, " dim"]) -> Float[Array, "batch 2*dim"]:
    """Sines, then cosines of 2 pi times the values at the given frequencies (Gaussian and fixed, Tancik et al. 2020)."""
    angles = values[:, None] * frequencies[None, :] * 2 * math.pi  # in the order of score_sde, which rounds alike
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
