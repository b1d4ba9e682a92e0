"""The two ends: pixels to [-1, 1] and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from scoreflow_jax.pixels import Scaling, dequantized, to_pixels, to_unit_range, to_unit_range_host


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


@pytest.mark.parametrize("levels", [17, 256])
def test_dequantized_levels_fill_their_cells_and_come_back(levels):
    scaling = Scaling(levels, dequantize=True)
    k = np.tile(np.arange(levels, dtype=np.uint8), 2000).reshape(1, -1, levels, 1)
    x = np.asarray(dequantized(jax.random.key(0), jnp.asarray(k), levels))
    u = (x + 1) * levels / 2 - k
    assert u.min() > -1e-4
    assert u.max() < 1 + 1e-4
    assert stats.kstest(u[..., :3, :].ravel(), "uniform").pvalue > 1e-3
    middle = scaling.to_images(k)
    np.testing.assert_allclose(middle, 2 * (k + 0.5) / levels - 1, atol=1e-6)
    eight_bit = np.rint(255.0 * k / (levels - 1)).astype(np.uint8)
    np.testing.assert_array_equal(scaling.to_pixels(middle), eight_bit)
    np.testing.assert_allclose(scaling.shown(middle), middle, atol=1e-6)  # a real image is shown as it is
    # Float32 may round the last u of a cell over its edge; all others come back to their level.
    assert np.mean(scaling.to_pixels(x) != eight_bit) < 1e-4
    assert scaling.rounding != Scaling(levels).rounding


def test_scaling_without_dequantization_is_that_of_the_levels():
    k = np.arange(17, dtype=np.uint8).reshape(1, -1, 1, 1)
    np.testing.assert_array_equal(Scaling(17).to_images(k), to_unit_range_host(k, 17))
    np.testing.assert_array_equal(Scaling(17).to_pixels(Scaling(17).to_images(k)), np.rint(255.0 * k / 16))
    every = np.arange(256, dtype=np.uint8).reshape(1, -1, 1, 1)
    np.testing.assert_array_equal(Scaling(17).to_pixels(Scaling(17).from_eight_bits(every)), every)
