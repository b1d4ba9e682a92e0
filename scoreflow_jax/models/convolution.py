"""The 3x3 convolution that nearly all of a network's time goes to, with gradients that suit the machine.

It is a primitive of its own, bilinear in images and kernel, since what autodiff makes of XLA's convolution is slow on CPUs in two
places (docs/performance.md has the figures):

The gradient by the images is a convolution with the kernel turned round. Autodiff turns it by an operation that XLA merges into
the convolution, and oneDNN, which has kernels in bfloat16, is not given such ones: they take two and a half times as long.
Turned round and transposed beforehand, it is a convolution like any other.

The gradient by the kernel is a correlation of images as large as its two arguments. Autodiff writes it as a convolution whose
result is 3x3 pixels, for which XLA's CPU code forms products of three rows at a time. Written as three convolutions along the
height, one for each column of the kernel, with the input's channels in the rows' place, it takes up to a third less time where
a batch has few pixels, and more where it has many.

Elsewhere both stay as autodiff has them: cuDNN and TPUs know them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from scoreflow_jax.models.portable import by_platform, is_portable
from scoreflow_jax.typing import Images

Kernel = Float[Array, "3 3 channel out"]
_LAYOUT = ("NHWC", "HWIO", "NHWC")
_FEW_PIXELS = 4096


def convolve3x3(x: Images, kernel: Kernel) -> Float[Array, "batch height width out"]:
    """Correlates images with a 3x3 kernel, with zeros beyond the edges; height and width stay.

    Differentiable in both modes and as often as one likes, and under vmap.
    """
    return _convolve(x, kernel) if is_portable() else _PRIMITIVE.bind(x, kernel)  # type: ignore[return-value]


def _convolve(x: Any, kernel: Any) -> Any:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT)


def image_gradient(out_gradient: Float[Array, "batch height width out"], kernel: Kernel) -> Images:
    """The gradient by the images of sum(convolve3x3(x, kernel) * out_gradient)."""
    return by_platform(out_gradient, kernel, cpu=_by_turned_kernel, default=_by_autodiff)


def _by_turned_kernel(out_gradient: Any, kernel: Any) -> Any:
    return convolve3x3(out_gradient, kernel[::-1, ::-1].swapaxes(2, 3))


def _by_autodiff(out_gradient: Any, kernel: Any) -> Any:
    x = jax.ShapeDtypeStruct((*out_gradient.shape[:-1], kernel.shape[2]), out_gradient.dtype)
    return jax.linear_transpose(lambda x: _convolve(x, kernel), x)(out_gradient)[0]


def kernel_gradient(x: Images, out_gradient: Float[Array, "batch height width out"]) -> Kernel:
    """The gradient by the kernel of sum(convolve3x3(x, kernel) * out_gradient)."""
    few = x.shape[0] * x.shape[1] * x.shape[2] <= _FEW_PIXELS
    on_cpu = _by_columns if few else _by_transposition
    return by_platform(x, out_gradient, cpu=on_cpu, default=_by_transposition)


def _by_transposition(x: Any, out_gradient: Any) -> Any:
    """The kernel's gradient as autodiff has it."""
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], out_gradient.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda kernel: _convolve(x, kernel), kernel)(out_gradient)[0]


def _by_columns(x: Any, out_gradient: Any) -> Any:
    """For column j of the kernel, a correlation along the height: sums over width and batch are its input channels."""
    batch, height, width, channels = x.shape
    weights = out_gradient.transpose(1, 2, 0, 3).reshape(height, 1, width * batch, -1)
    rows = jnp.pad(x.transpose(1, 3, 2, 0), ((0, 0), (0, 0), (1, 1), (0, 0)))
    rows = rows.reshape(1, height, channels, (width + 2) * batch)

    def column(j: int) -> Any:
        shifted = rows[..., j * batch : (j + width) * batch]
        return lax.conv_general_dilated(shifted, weights, (1, 1), ((1, 1), (0, 0)), dimension_numbers=_LAYOUT)[0]

    return jnp.stack([column(j) for j in range(3)], axis=1)


def _by_images(out_gradient: Any, _: Any, kernel: Any) -> Any:
    return image_gradient(out_gradient, kernel)


def _by_kernel(out_gradient: Any, x: Any, _: Any) -> Any:
    return kernel_gradient(x, out_gradient)


def _batched(arguments: Any, axes: Any) -> Any:
    """Images of several batches are one larger batch; several kernels are XLA's own business."""
    x, kernel = arguments
    if axes[1] is not None:
        return jax.vmap(_convolve, in_axes=axes)(x, kernel), 0
    x = jnp.moveaxis(x, axes[0], 0)
    out = convolve3x3(x.reshape(-1, *x.shape[2:]), kernel)
    return out.reshape(*x.shape[:2], *out.shape[1:]), 0


_PRIMITIVE = Primitive("convolve3x3")
_PRIMITIVE.def_impl(jax.jit(_convolve))
_PRIMITIVE.def_abstract_eval(lambda x, kernel: x.update(shape=(*x.shape[:-1], kernel.shape[-1])))
mlir.register_lowering(_PRIMITIVE, mlir.lower_fun(_convolve, multiple_results=False))
ad.defbilinear(_PRIMITIVE, _by_images, _by_kernel)
batching.primitive_batchers[_PRIMITIVE] = _batched
