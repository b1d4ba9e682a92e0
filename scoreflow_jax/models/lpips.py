"""LPIPS: a perceptual distance of two images (Zhang et al. 2018, arXiv:1801.03924), with AlexNet, version 0.1.

At five depths of AlexNet each pixel's features are scaled to length 1; the squared differences are weighted by channel, averaged
over pixels and summed. Weights are two public PyTorch files: torchvision's AlexNet, and the channel weights of the lpips package.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from scoreflow_jax.typing import Images, PerExample

SMALLEST = 32
"""Height and width below which AlexNet has no pixels left."""

_MEAN, _STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [-1, 1]
_EPSILON = 1e-10


class _Conv(NamedTuple):
    """Its number in torchvision's list, channels in and out, kernel, stride, padding, and whether a max pool goes before it."""

    number: int
    shape: tuple[int, int]
    kernel: int
    stride: int
    padding: int
    pool: bool


_CONVS = (
    _Conv(0, (3, 64), 11, 4, 2, pool=False),
    _Conv(3, (64, 192), 5, 1, 2, pool=True),
    _Conv(6, (192, 384), 3, 1, 1, pool=True),
    _Conv(8, (384, 256), 3, 1, 1, pool=False),
    _Conv(10, (256, 256), 3, 1, 1, pool=False),
)


class LpipsWeights(NamedTuple):
    """Kernels and biases of AlexNet's convolutions, and the channels' weights behind each."""

    convs: list[tuple[Float[Array, "h w i o"], Float[Array, " o"]]]
    channels: list[Float[Array, " o"]]


def import_lpips(backbone: Any, heads: Any) -> LpipsWeights:
    """Weights from what `torch_files.read_torch_file` returned of alexnet-owt-*.pth and of lpips' alex.pth.

    Raises:
        ValueError: a tensor is missing, of another shape or not finite.
    """
    convs, channels = [], []
    for i, conv in enumerate(_CONVS):
        inside, out = conv.shape
        kernel = _tensor(backbone, f"features.{conv.number}.weight", (out, inside, conv.kernel, conv.kernel))
        bias = _tensor(backbone, f"features.{conv.number}.bias", (out,))
        convs.append((jnp.asarray(kernel.transpose(2, 3, 1, 0)), jnp.asarray(bias)))
        channels.append(jnp.asarray(_tensor(heads, f"lin{i}.model.1.weight", (1, out, 1, 1)).ravel()))
    return LpipsWeights(convs, channels)


def _tensor(tensors: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    found = tensors.get(name) if isinstance(tensors, dict) else None
    if not isinstance(found, np.ndarray) or found.shape != shape or not np.all(np.isfinite(found)):
        raise ValueError(f"it has no tensor {name} of shape {shape} with finite numbers")
    with np.errstate(over="ignore"):
        single = np.asarray(found, np.float32)
    if not np.all(np.isfinite(single)):
        raise ValueError(f"its tensor {name} has numbers that float32 cannot hold")
    return single


def lpips(weights: LpipsWeights, a: Images, b: Images) -> PerExample:
    """The distance of each image of `a` to that of `b`, both in [-1, 1], with 1 or 3 channels, at least 32x32.

    Args:
        weights: of `import_lpips`.
        a, b: as many images in the one as in the other, of one size.
    """
    with jax.default_matmul_precision("highest"):
        pairs = zip(_features(weights, a), _features(weights, b), weights.channels, strict=True)
        return sum((_depth(x, y, w) for x, y, w in pairs), start=jnp.zeros(len(a)))


def _depth(x: Array, y: Array, channels: Array) -> PerExample:
    length = lambda z: jnp.sqrt(jnp.sum(z * z, axis=-1, keepdims=True)) + _EPSILON  # noqa: E731
    difference = (x / length(x) - y / length(y)) ** 2
    return jnp.mean(difference @ channels, axis=(1, 2))


def _features(weights: LpipsWeights, images: Images) -> list[Array]:
    x = jnp.broadcast_to(images, (*images.shape[:3], 3))
    x = (x - jnp.asarray(_MEAN).reshape(1, 1, 1, 3)) / jnp.asarray(_STD).reshape(1, 1, 1, 3)
    found = []
    for conv, (kernel, bias) in zip(_CONVS, weights.convs, strict=True):
        if conv.pool:
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
        padding = ((conv.padding, conv.padding),) * 2
        x = lax.conv_general_dilated(x, kernel, (conv.stride,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x + bias.reshape(1, 1, 1, -1))
        found.append(x)
    return found
