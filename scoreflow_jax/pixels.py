"""The two ends of the package: 8-bit pixels in, 8-bit pixels out.

Data of `levels` grey levels k = 0 .. levels - 1 become x = 2 k / (levels - 1) - 1, and x becomes round(127.5 x + 127.5),
clipped to [0, 255]. Photographs have 256 levels; scikit-learn's digits have 17.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from scoreflow_jax.typing import HostImages, Images, Pixels

ROUNDING = "round(127.5 x + 127.5), clipped to [0, 255]"
"""Stated in every report: codes that truncate instead differ measurably in FID."""


def to_unit_range(pixels: UInt8[Array, "batch height width channel"], levels: int) -> Images:
    """Maps pixels 0 .. levels - 1 to float32 in [-1, 1], on the device."""
    return pixels.astype(jnp.float32) * (2.0 / (levels - 1)) - 1.0


def to_unit_range_host(pixels: Pixels, levels: int) -> HostImages:
    """Like `to_unit_range`, on the host."""
    return pixels.astype(np.float32) * np.float32(2.0 / (levels - 1)) - np.float32(1.0)


def to_pixels(images: Float[np.ndarray, "*any"]) -> UInt8[np.ndarray, "*any"]:
    """Maps images in [-1, 1] to 0 .. 255 by the rounding that `ROUNDING` states."""
    return np.clip(np.rint(127.5 * np.asarray(images, np.float64) + 127.5), 0, 255).astype(np.uint8)
