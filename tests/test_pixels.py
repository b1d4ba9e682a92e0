"""The two ends: pixels to [-1, 1] and back."""

import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax.pixels import to_pixels, to_unit_range, to_unit_range_host


@pytest.mark.parametrize("levels", [17, 256])
def test_levels_fill_the_range_evenly(levels):
    k = np.arange(levels, dtype=np.uint8).reshape(1, -1, 1, 1)
    expected = np.linspace(-1, 1, levels).reshape(k.shape)
    np.testing.assert_allclose(to_unit_range_host(k, levels), expected, atol=1e-6)
    np.testing.assert_allclose(to_unit_range(jnp.asarray(k), levels), expected, atol=1e-6)


def test_every_byte_comes_back():
    k = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(to_pixels(to_unit_range_host(k, 256)), k)


def test_rounds_to_the_nearest_and_clips():
    x = np.array([-1.7, -1.0, 0.0, 2 / 255 * 0.49 - 1, 2 / 255 * 0.51 - 1, 1.0, 3.0])
    np.testing.assert_array_equal(to_pixels(x), [0, 0, 128, 0, 1, 255, 255])
