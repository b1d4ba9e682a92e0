"""Embeddings of time."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from scoreflow_jax.typing import Times


def positional_embedding(
    t: Times, dim: int, *, max_period: float = 10_000.0, scale: float = 999.0
) -> Float[Array, "batch dim"]:
    """Sines, then cosines of scale * t at dim / 2 frequencies from 1 down to 1 / max_period, evenly spaced in the logarithm.

    score_sde's `get_timestep_embedding`, where t counts 999 steps.

    Raises:
        ValueError: an odd dim.
    """
    if dim % 2 or dim < 4:
        raise ValueError(f"a positional embedding of dimension {dim}: expected an even number of at least 4")
    half = dim // 2
    frequencies = jnp.exp(-math.log(max_period) / (half - 1) * jnp.arange(half, dtype=jnp.float32))
    angles = scale * t[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
