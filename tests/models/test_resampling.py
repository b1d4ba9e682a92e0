"""Resampling against scipy.signal.upfirdn, and in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from scoreflow_jax.models.blocks import ResamplingConv
from scoreflow_jax.models.resampling import downsample, filter_images, upsample

TAPS = [(1.0, 3.0, 3.0, 1.0), (1.0, 2.0, 5.0, 3.0), (1.0, 2.0, 1.0), (1.0, 1.0)]
X = np.asarray(jax.random.normal(jax.random.key(0), (2, 8, 6, 3)))


def reference(x, taps, up=1, down=1, gain=1.0, padding=(0, 0)):
    """Rows and columns through scipy, in float64: pads before the filter, of which only whole windows are kept."""
    taps = np.asarray(taps, np.float64) / np.sum(taps) * up * np.sqrt(gain)
    for axis in (1, 2):
        spread = scipy.signal.upfirdn([1.0], x.astype(np.float64), up, 1, axis=axis)
        spread = np.concatenate([spread, np.zeros_like(np.take(spread, range(up - 1), axis))], axis)
        widths = [(0, 0)] * 4
        widths[axis] = padding
        padded = np.pad(spread, widths)
        full = scipy.signal.upfirdn(taps, padded, 1, 1, axis=axis)
        whole = np.take(full, range(len(taps) - 1, padded.shape[axis]), axis)
        x = np.take(whole, range(0, whole.shape[axis], down), axis)
    return x


def correlate(x, kernel, stride=1):
    """A convolution layer without padding, by loops over the kernel."""
    height, width = (x.shape[1] - 3) // stride + 1, (x.shape[2] - 3) // stride + 1
    out = np.zeros((len(x), height, width, kernel.shape[-1]))
    for i in range(3):
        for j in range(3):
            part = x[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
            out += part @ kernel[i, j]
    return out


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize("how", [{}, {"up": 2, "padding": (2, 1)}, {"down": 2, "padding": (1, 1)}, {"gain": 4.0}])
def test_filter_is_scipys(taps, how):
    np.testing.assert_allclose(filter_images(jnp.asarray(X), taps, **how), reference(X, taps, **how), atol=1e-5)


@pytest.mark.parametrize("taps", TAPS)
def test_up_and_down_keep_constants_inside_and_change_the_size_by_two(taps):
    ones = jnp.ones((1, 12, 12, 2))
    assert upsample(ones, taps).shape == (1, 24, 24, 2)
    assert downsample(ones, taps).shape == (1, 6, 6, 2)
    np.testing.assert_allclose(downsample(ones, taps)[:, 2:-2, 2:-2], 1.0, atol=1e-6)
    # Over zeros put between pixels a filter keeps constants where its even and odd taps weigh the same.
    even, odd = sum(taps[::2]), sum(taps[1::2])
    inner = upsample(ones, taps)[0, 6:-6, 6:-6, 0]
    assert float(inner.mean()) == pytest.approx(1.0, abs=1e-6)
    assert (float(inner.std()) < 1e-6) == (even == odd)


def test_plain_resampling_in_closed_form():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(downsample(x)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(upsample(x)[0, :, :, 0], np.kron(np.asarray(x[0, :, :, 0]), np.ones((2, 2))))
    np.testing.assert_array_equal(downsample(upsample(x)), x)
    np.testing.assert_allclose(downsample(x, (1.0, 1.0)), downsample(x), atol=1e-6)  # the box filter is the mean
    np.testing.assert_allclose(upsample(x, (1.0, 1.0)), upsample(x), atol=1e-5)  # and the nearest pixel


@pytest.mark.parametrize("taps", [(), *TAPS])
@pytest.mark.parametrize("resample", ["up", "down"])
def test_resampling_convolution_is_its_parts(taps, resample):
    """Up: zeros between pixels, convolution wherever it reaches, filter. Down: filter, convolution of stride 2."""
    block = ResamplingConv(4, resample, taps)
    params = block.init(jax.random.key(1), jnp.asarray(X))["params"]
    params["bias"] = jnp.arange(4.0)
    kernel, extra = np.asarray(params["kernel"], np.float64), len(taps) - 2
    if not taps and resample == "up":
        twice = np.repeat(np.repeat(X, 2, 1), 2, 2)
        expected = correlate(np.pad(twice, ((0, 0), (1, 1), (1, 1), (0, 0))), kernel)
    elif not taps:
        expected = correlate(np.pad(X, ((0, 0), (0, 1), (0, 1), (0, 0))), kernel, stride=2)
    elif resample == "up":
        spread = np.zeros((2, 15, 11, 3))
        spread[:, ::2, ::2] = X
        reached = correlate(np.pad(spread, ((0, 0), (2, 2), (2, 2), (0, 0))), kernel)
        short = extra - 2
        expected = reference(reached, taps, gain=4.0, padding=((short + 1) // 2 + 1, short // 2 + 1))
    else:
        padding = ((extra + 3) // 2, (extra + 2) // 2)
        expected = correlate(reference(X, taps, padding=padding), kernel, stride=2)
    got = block.apply({"params": params}, jnp.asarray(X))
    assert got.shape == ((2, 16, 12, 4) if resample == "up" else (2, 4, 3, 4))
    np.testing.assert_allclose(got, expected + np.arange(4.0), atol=1e-5)
