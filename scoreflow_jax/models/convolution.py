"""The 3x3 convolution that nearly all of a network's time goes to, with a kernel gradient that suits the machine.

The gradient by the kernel is a correlation of images as large as its two arguments. Autodiff writes it as a convolution whose
result is 3x3 pixels, for which XLA's CPU code forms products of three rows at a time. Written as three convolutions along the
height, one for each column of the kernel, with the input's channels in the rows' place, alone it takes up to a third less
time there (docs/performance.md). Elsewhere the convolution of autodiff stays: cuDNN and TPUs know it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero, linear_call
from jaxtyping import Array, Float

from scoreflow_jax.typing import Images

Kernel = Float[Array, "3 3 channel out"]
_LAYOUT = ("NHWC", "HWIO", "NHWC")


@jax.custom_jvp
def convolve3x3(x: Images, kernel: Kernel) -> Float[Array, "batch height width out"]:
    """Correlates images with a 3x3 kernel, with zeros beyond the edges; height and width stay.

    Forward and reverse mode work, but not vmap of a gradient by the kernel: `linear_call` has no batching rule.
    """
    return _convolve(x, kernel)


# A rule for jvp alone: forward mode must keep working, since likelihoods take Hutchinson's probes through it.
def _jvp(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    (x, kernel), (dx, dkernel) = primals, tangents
    out = _convolve(x, kernel)
    terms = []
    if not isinstance(dx, SymbolicZero):
        terms.append(_convolve(dx, kernel))
    if not isinstance(dkernel, SymbolicZero):
        terms.append(linear_call(_convolve, kernel_gradient, x, dkernel))
    return out, sum(terms[1:], start=terms[0]) if terms else jnp.zeros_like(out)


convolve3x3.defjvp(_jvp, symbolic_zeros=True)


def _convolve(x: Any, kernel: Any) -> Any:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT)


def kernel_gradient(x: Images, out_gradient: Float[Array, "batch height width out"]) -> Kernel:
    """The gradient by the kernel of sum(convolve3x3(x, kernel) * out_gradient)."""
    return lax.platform_dependent(x, out_gradient, cpu=_by_columns, default=_by_transposition)


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
