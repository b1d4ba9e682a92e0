"""Changing resolution by two: plainly, or through a finite impulse response (FIR) filter as in StyleGAN 2 and NCSN++.

A filter is given by its taps in one dimension, such as (1, 3, 3, 1); they are scaled to sum 1 and applied to rows and
columns in turn. No taps at all stand for nearest-neighbor upsampling and the mean over 2x2 pixels.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from scoreflow_jax.typing import Images

Taps = tuple[float, ...]
Doubled = Float[Array, "batch 2*height 2*width channel"]
Halved = Float[Array, "batch height//2 width//2 channel"]


def upsample(x: Images, taps: Taps = ()) -> Doubled:
    """Doubles height and width, by repetition or by a filter over zeros put between the pixels."""
    if not taps:
        return upsample_nearest(x)
    extra = len(taps) - 2
    return filter_images(x, taps, up=2, padding=((extra + 1) // 2 + 1, extra // 2))


def downsample(x: Images, taps: Taps = ()) -> Halved:
    """Halves height and width, by the mean of 2x2 pixels or by a filter of which every other value is kept."""
    if not taps:
        return downsample_mean(x)
    extra = len(taps) - 2
    return filter_images(x, taps, down=2, padding=((extra + 1) // 2, extra // 2))


def upsample_nearest(x: Images) -> Doubled:
    """Doubles height and width by repeating every pixel."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def downsample_mean(x: Images) -> Halved:
    """Halves height and width by the mean over 2x2 pixels."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def filter_images(
    x: Images, taps: Taps, *, up: int = 1, down: int = 1, gain: float = 1.0, padding: tuple[int, int] = (0, 0)
) -> Float[Array, "batch _ _ channel"]:
    """Puts up - 1 zeros behind every pixel, pads with zeros, convolves rows and columns with the taps, keeps every down-th.

    The taps are scaled so that a constant image keeps its value, times `gain`. NVIDIA's `upfirdn2d` (StyleGAN 2).

    Args:
        x: images.
        taps: of the filter, in one dimension.
        up, down: factors of the resolution.
        gain: of the result.
        padding: zeros before and behind, in pixels of the enlarged image, the same for both axes.
    """
    weights = np.asarray(taps, np.float64) / np.sum(taps) * up * np.sqrt(gain)
    for axis in (1, 2):
        x = _filter_axis(x, weights, axis, up, down, padding)
    return x


def _filter_axis(x: Any, weights: np.ndarray, axis: int, up: int, down: int, padding: tuple[int, int]) -> Any:
    before, behind = padding
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (before, behind + up - 1, up - 1)
    x = lax.pad(x, jnp.zeros((), x.dtype), config)
    last = (x.shape[axis] - len(weights)) // down * down  # where the last window begins
    shifted = (lax.slice_in_dim(x, k, k + last + 1, down, axis) for k in range(len(weights)))
    terms = [np.asarray(w, x.dtype) * s for w, s in zip(weights[::-1], shifted, strict=True)]
    return sum(terms[1:], start=terms[0])
