"""Changing resolution by two."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from scoreflow_jax.typing import Images


def upsample_nearest(x: Images) -> Float[Array, "batch 2*height 2*width channel"]:
    """Doubles height and width by repeating every pixel."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def downsample_mean(x: Images) -> Float[Array, "batch height//2 width//2 channel"]:
    """Halves height and width by the mean over 2x2 pixels."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
