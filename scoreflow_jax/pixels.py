"""The two ends of the package: 8-bit pixels in, 8-bit pixels out.

Data of `levels` grey levels k = 0 .. levels - 1 become x = 2 k / (levels - 1) - 1, and x becomes round(127.5 x + 127.5),
clipped to [0, 255]. Photographs have 256 levels; scikit-learn's digits have 17.

A density is only defined where data fill space. Training on dequantized data adds to each level a uniform number u in [0, 1):
x = 2 (k + u) / levels - 1 (Theis et al. 2016, arXiv:1511.01844). Then the level of x is floor(levels (x + 1) / 2).

Points of a table have 0 levels: they are real numbers and go in and out as they are.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real, UInt8

from scoreflow_jax.typing import HostImages, Images, Pixels, PRNGKey

ROUNDING = "round(127.5 x + 127.5), clipped to [0, 255]"
"""Stated in every report: codes that truncate instead differ measurably in FID."""


def to_unit_range(pixels: UInt8[Array, "batch height width channel"], levels: int) -> Images:
    """Maps pixels 0 .. levels - 1 to float32 in [-1, 1], on the device."""
    return pixels.astype(jnp.float32) * (2.0 / (levels - 1)) - 1.0


def dequantized(key: PRNGKey, pixels: UInt8[Array, "batch height width channel"], levels: int) -> Images:
    """Maps pixels to 2 (k + u) / levels - 1 with u uniform in [0, 1), on the device.

    Args:
        key: that u is drawn from.
        pixels: k, from 0 to levels - 1.
        levels: of grey.
    """
    noise = jax.random.uniform(key, pixels.shape, jnp.float32)
    return (pixels.astype(jnp.float32) + noise) * (2.0 / levels) - 1.0


def to_unit_range_host(pixels: Pixels, levels: int) -> HostImages:
    """Like `to_unit_range`, on the host."""
    return pixels.astype(np.float32) * np.float32(2.0 / (levels - 1)) - np.float32(1.0)


def to_pixels(images: Float[np.ndarray, "*any"]) -> UInt8[np.ndarray, "*any"]:
    """Maps images in [-1, 1] to 0 .. 255 by the rounding that `ROUNDING` states."""
    return np.clip(np.rint(127.5 * np.asarray(images, np.float64) + 127.5), 0, 255).astype(np.uint8)


Either = Real[np.ndarray, "*any"]
"""8-bit pixels, or float32 points."""


@dataclasses.dataclass(frozen=True)
class Scaling:
    """How a model's images and 8-bit pixels become each other; points stay points.

    Attributes:
        levels: grey levels of the data; 0 for points, which nothing here changes.
        dequantize: whether the model is trained on dequantized data.
    """

    levels: int
    dequantize: bool = False

    @property
    def rounding(self) -> str:
        """What a report says."""
        if not self.levels:
            return "none: points of a table"
        if not self.dequantize:
            return ROUNDING
        return f"level floor({self.levels} (x + 1) / 2), clipped, then round(255 level / {self.levels - 1})"

    def to_images(self, pixels: Either) -> Float[np.ndarray, "*any"]:
        """Maps the data's pixels 0 .. levels - 1 to [-1, 1]: for a dequantized model to the middle of their cells."""
        if not self.levels:
            return pixels
        if not self.dequantize:
            return pixels.astype(np.float32) * np.float32(2.0 / (self.levels - 1)) - np.float32(1.0)
        return (pixels.astype(np.float32) + np.float32(0.5)) * np.float32(2.0 / self.levels) - np.float32(1.0)

    def shown(self, images: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
        """Images as a user gets them, rounded to 8-bit pixels, in [-1, 1] again: real ones come back as they are."""
        return self.from_eight_bits(self.to_pixels(images))

    def from_eight_bits(self, pixels: Either) -> Float[np.ndarray, "*any"]:
        """The inverse of `to_pixels`; a dequantized model's levels go to the middle of their cells."""
        if not self.levels:
            return pixels
        if not self.dequantize:
            return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1.0)
        return self.to_images(np.rint(pixels * ((self.levels - 1) / 255.0)).astype(np.uint8))

    def to_pixels(self, images: Float[np.ndarray, "*any"]) -> Either:
        """Maps images in [-1, 1] to 0 .. 255."""
        if not self.levels:
            return np.asarray(images, np.float32)
        if not self.dequantize:
            return to_pixels(images)
        level = np.clip(np.floor(self.levels * (np.asarray(images, np.float64) + 1.0) / 2.0), 0, self.levels - 1)
        return np.rint(255.0 * level / (self.levels - 1)).astype(np.uint8)
