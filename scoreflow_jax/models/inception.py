"""Inception-v3 of 2015-12-05, the network whose features FID, KID and the Inception Score are defined by.

Heusel et al. 2017 (arXiv:1706.08500) and Salimans et al. 2016 (arXiv:1606.03498) took the graph that Google released with
TensorFlow; figures compare only where weights, resize, input scaling and pooling are that graph's. Its names stand here: mixed,
mixed_1 and so on, with towers inside. It differs from later Inception-v3s in its average pools, which leave padding out of the
mean, and in mixed_10, which takes the maximum where mixed_9 takes the mean.

BatchNorms are folded into the convolutions when weights are loaded (`inception_weights.py`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from scoreflow_jax.typing import PyTree

SIZE = 299  # height and width of the network's input
FEATURES = 2048  # of pool3
CLASSES = 1008  # of the released output layer: 1,000 of ImageNet and 8 that mean nothing

RESIZES = {
    "tensorflow": "bilinear without half-pixel centres (the TensorFlow graph's own), inputs (x - 128) / 128",
    "half_pixel": "bilinear with half-pixel centres (pytorch-fid's), inputs x / 127.5 - 1",
}
"""Ways from pixels to the network's input, by the name that `config.eval.resize` gives them. Neither smooths before it
shrinks."""


class _Conv(NamedTuple):
    """A convolution with ReLU: channels, kernel, stride, and whether the output keeps the input's size."""

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    same: bool = True


class ConvReLU(nn.Module):
    """A convolution with bias and ReLU."""

    spec: _Conv

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channel"]) -> Float[Array, "batch height2 width2 out"]:
        """Returns relu(x * kernel + bias)."""
        spec = self.spec
        shape = (*spec.kernel, x.shape[-1], spec.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (spec.features,))
        return nn.relu(_convolve(x, kernel, spec.stride, spec.same) + bias.reshape(1, 1, 1, -1))


def _convolve(x: Any, kernel: Any, stride: int, same: bool) -> Any:
    """A convolution, on CPU in the form that XLA is fast at.

    There a 1x1 convolution is twice as fast as a matrix product, and others up to four times with one column of output too
    many, which is then dropped: without padding, or with the same on both sides, XLA takes a slow way (benchmarks/inception.py).
    """
    kernel_size = kernel.shape[:2]
    if kernel_size == (1, 1):
        return jnp.einsum("bhwc,co->bhwo", x, kernel[0, 0])
    pads = lax.padtype_to_pads(x.shape[1:3], kernel_size, (stride, stride), "SAME" if same else "VALID")
    width = (x.shape[2] + sum(pads[1]) - kernel_size[1]) // stride + 1

    def padded(x: Any, kernel: Any, extra: int) -> Any:
        (top, bottom), (left, right) = pads
        out = lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            ((top, bottom), (left, right + extra)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return out[:, :, :width]

    return lax.platform_dependent(
        x, kernel, cpu=lambda x, k: padded(x, k, stride), default=lambda x, k: padded(x, k, 0)
    )


class Tower(nn.Module):
    """Convolutions one after the other, named conv, conv_1 and so on."""

    convs: Sequence[_Conv]

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channel"]) -> Float[Array, "batch height2 width2 out"]:
        """Runs them."""
        for i, spec in enumerate(self.convs):
            x = ConvReLU(spec, name="conv" if i == 0 else f"conv_{i}")(x)
        return x


class Mixed(nn.Module):
    """Branches side by side, their outputs concatenated.

    Attributes:
        conv: of the first branch, which is one convolution; None where there is none.
        towers: the other branches, named tower, tower_1 and so on.
        pooled: channels of the last branch, an average pool and a 1x1 convolution; 0: a max pool of stride 2 instead.
    """

    conv: _Conv | None
    towers: Sequence[Sequence[_Conv]]
    pooled: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channel"]) -> Float[Array, "batch height2 width2 out"]:
        """Runs the branches."""
        branches = [] if self.conv is None else [ConvReLU(self.conv, name="conv")(x)]
        branches += [Tower(convs, name=_numbered("tower", i))(x) for i, convs in enumerate(self.towers)]
        if self.pooled:
            last = Tower([_Conv(self.pooled)], name=_numbered("tower", len(self.towers)))(average_pool(x))
        else:
            last = max_pool(x, 2)
        return jnp.concatenate([*branches, last], axis=-1)


class MixedWide(nn.Module):
    """The two last blocks, whose towers fork into 1x3 and 3x1 convolutions.

    Attributes:
        max_pooled: whether the last branch takes maxima (mixed_10) or means.
    """

    max_pooled: bool

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channel"]) -> Float[Array, "batch height width out"]:
        """Runs the branches."""
        wide, tall = _Conv(384, (1, 3)), _Conv(384, (3, 1))
        a = ConvReLU(_Conv(384), name="tower_conv")(x)
        b = ConvReLU(_Conv(448), name="tower_1_conv")(x)
        b = ConvReLU(_Conv(384, (3, 3)), name="tower_1_conv_1")(b)
        pooled = max_pool(x, 1) if self.max_pooled else average_pool(x)
        branches = [
            ConvReLU(_Conv(320), name="conv")(x),
            ConvReLU(wide, name="tower_mixed_conv")(a),
            ConvReLU(tall, name="tower_mixed_conv_1")(a),
            ConvReLU(wide, name="tower_1_mixed_conv")(b),
            ConvReLU(tall, name="tower_1_mixed_conv_1")(b),
            ConvReLU(_Conv(192), name="tower_2_conv")(pooled),
        ]
        return jnp.concatenate(branches, axis=-1)


class InceptionV3(nn.Module):
    """The network from images to the 2,048 means of its last block, "pool3"."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch 299 299 3"]) -> Float[Array, "batch 2048"]:
        """Returns pool3.

        Args:
            x: images scaled and resized by `resize`.
        """
        x = ConvReLU(_Conv(32, (3, 3), 2, same=False), name="conv")(x)
        x = ConvReLU(_Conv(32, (3, 3), same=False), name="conv_1")(x)
        x = ConvReLU(_Conv(64, (3, 3)), name="conv_2")(x)
        x = max_pool(x, 2)
        x = ConvReLU(_Conv(80), name="conv_3")(x)
        x = ConvReLU(_Conv(192, (3, 3), same=False), name="conv_4")(x)
        x = max_pool(x, 2)
        for i, block in enumerate(_BLOCKS):
            x = block.clone(parent=self, name=_numbered("mixed", i))(x)
        return jnp.mean(x, axis=(1, 2))


def _blocks() -> list[nn.Module]:
    """mixed to mixed_10."""
    c, halve = _Conv, {"stride": 2, "same": False}
    small = lambda pooled: Mixed(  # noqa: E731
        c(64), [[c(48), c(64, (5, 5))], [c(64), c(96, (3, 3)), c(96, (3, 3))]], pooled
    )

    def long(n: int) -> Mixed:
        """The blocks at 17x17, 7x7 kernels in two factors, with n channels inside."""
        row, column = c(n, (1, 7)), c(n, (7, 1))
        return Mixed(c(192), [[c(n), row, c(192, (7, 1))], [c(n), column, row, column, c(192, (1, 7))]], 192)

    to_17 = Mixed(c(384, (3, 3), **halve), [[c(64), c(96, (3, 3)), c(96, (3, 3), **halve)]])
    to_8 = Mixed(
        None,
        [[c(192), c(320, (3, 3), **halve)], [c(192), c(192, (1, 7)), c(192, (7, 1)), c(192, (3, 3), **halve)]],
    )
    blocks: list[nn.Module] = [small(32), small(64), small(64), to_17, long(128), long(160), long(160), long(192), to_8]
    return [*blocks, MixedWide(max_pooled=False), MixedWide(max_pooled=True)]


_BLOCKS = _blocks()


def _numbered(name: str, index: int) -> str:
    """TensorFlow's numbering: name, name_1, name_2."""
    return name if index == 0 else f"{name}_{index}"


def max_pool(
    x: Float[Array, "batch height width channel"], stride: int
) -> Float[Array, "batch height2 width2 channel"]:
    """The maximum over 3x3 pixels; stride 2 without padding, or stride 1 with the size kept."""
    pads = ((0, 0), (0, 0)) if stride == 2 else ((1, 1), (1, 1))
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
    columns = _combine(jnp.maximum, padded, 1, stride)
    return _combine(jnp.maximum, columns, 2, stride)


def average_pool(x: Float[Array, "batch height width channel"]) -> Float[Array, "batch height width channel"]:
    """The mean over 3x3 pixels, of those that are inside the image only."""

    def total(x: Any) -> Any:
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return _combine(jnp.add, _combine(jnp.add, padded, 1, 1), 2, 1)

    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1)))


def _combine(operation: Any, x: Any, axis: int, stride: int) -> Any:
    """Combines each three neighbours along an axis. XLA's own windowed reduction is several times slower on CPU."""
    last = (x.shape[axis] - 3) // stride * stride
    a, b, c = (lax.slice_in_dim(x, i, i + last + 1, stride, axis) for i in range(3))
    return operation(operation(a, b), c)


def resize(pixels: UInt8[Array, "batch height width 3"], how: str) -> Float[Array, "batch 299 299 3"]:
    """Turns 8-bit pixels into the network's input.

    Args:
        pixels: 0 .. 255, of any size.
        how: a name in `RESIZES`.
    """
    x = pixels.astype(jnp.float32)
    x = (x - 128.0) / 128.0 if how == "tensorflow" else x / 127.5 - 1.0
    rows, columns = (jnp.asarray(bilinear_weights(n, SIZE, half_pixel=how == "half_pixel")) for n in x.shape[1:3])
    x = jnp.einsum("oh,bhwc->bowc", rows, x, precision="highest")
    return jnp.einsum("pw,bowc->bopc", columns, x, precision="highest")


def bilinear_weights(size: int, target: int, *, half_pixel: bool) -> Float[np.ndarray, "target size"]:
    """The matrix of linear interpolation along one axis.

    Output i lies at i * size / target of the input's pixels, with half-pixel centres at (i + 1/2) size / target - 1/2, and is the
    mean of the two pixels around, weighted by nearness; beyond the edge pixels it is the edge pixel.

    Args:
        size: pixels of the input along the axis.
        target: pixels of the output.
        half_pixel: whether the pixels' centres are at halves.
    """
    at = np.arange(target) * (size / target)
    if half_pixel:
        at = (np.arange(target) + 0.5) * (size / target) - 0.5
    at = np.clip(at, 0, size - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, size - 1)
    weights = np.zeros((target, size))
    weights[np.arange(target), low] += 1 - (at - low)
    weights[np.arange(target), high] += at - low
    return weights.astype(np.float32)


def pool3(params: PyTree, pixels: UInt8[Array, "batch height width 3"], how: str) -> Float[Array, "batch 2048"]:
    """Computes the features of 8-bit images, in float32 throughout.

    Args:
        params: of `InceptionV3`.
        pixels: 0 .. 255, of any size.
        how: to resize them, a name in `RESIZES`.
    """
    with jax.default_matmul_precision("highest"):
        features: Any = InceptionV3().apply({"params": params}, resize(pixels, how))
    return features
