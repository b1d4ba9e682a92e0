"""A network for points: residual blocks of dense layers, told time and class as the image network's blocks are (eq. 21)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scoreflow_jax.models.base import Network
from scoreflow_jax.models.blocks import (
    STEEPEST,
    Context,
    Vectors,
    class_gain,
    dense,
    embed_condition,
    embed_jump,
    residual_divisor,
    residual_sum,
)
from scoreflow_jax.models.embeddings import positional_embedding
from scoreflow_jax.settings.model import MLPFields
from scoreflow_jax.typing import Condition, Times

Outputs = Float[Array, "batch outputs"]


class MLP(MLPFields, Network):
    """f(x, t, c): points, times and conditions to a drift of the points' dimension.

    By the sines of the image network's 999 t the drift of points ripples in t, and an adaptive solver pays: 256 evaluations in
    place of 51 on three Gaussian classes, at equal likelihood. Hence its own time_scale.
    """

    @nn.compact
    def __call__(
        self,
        x: Vectors,
        t: Times,
        condition: Condition | None,
        train: bool = False,
        jump: Times | None = None,
        guidance: Times | None = None,
    ) -> Outputs:
        """Returns dx/dt, or what else it was trained for, at the points x and times t under the given conditions.

        With jump = s - t it is the mean of dx/dt from t to s, of networks that are told two times, guided by the given weight.

        Raises:
            ValueError: a condition that the network does not take or lacks, or images.
        """
        self.check_shape(x.shape[1:])
        self.check_condition(condition)
        h = positional_embedding(self.time_scale * t, self.width).astype(self.dtype)
        h = dense(self.width, name="time_0", dtype=self.dtype)(h)
        h = dense(self.width, name="time_1", dtype=self.dtype)(nn.swish(h))
        time = nn.swish(embed_jump(self, h, jump, guidance))
        divisor = residual_divisor(self.skip_rescale, t)
        context = Context(time, *embed_condition(self, condition, self.width, train), divisor)
        h = dense(self.width, name="in", dtype=self.dtype)(x.astype(self.dtype))
        for i in range(self.num_blocks):
            h = DenseBlock(self.width, self.dtype, name=f"block_{i}")(h, context)
        return dense(self.outputs * x.shape[-1], name="out", scale=0.0, dtype=self.dtype)(nn.swish(h)).astype(
            jnp.float32
        )

    @property
    def steep_in_time(self) -> bool:
        """By the sines' largest frequency."""
        return self.time_scale > STEEPEST

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuses images, and sizes that cannot be.

        Raises:
            ValueError: with what would do; also for a value that its field may not have.
        """
        if len(shape) != 1:
            raise ValueError(f"mlp takes points (dimension,), got images of shape {shape}: use ncsnpp")
        self.check()
        if self.width % 2:
            raise ValueError(f"width is {self.width}, expected an even number of at least 4")


class DenseBlock(nn.Module):
    """x + dense(swish(emb_c * dense(swish(x)) + emb_t)), the sum divided by the context's divisor.

    Attributes:
        width: of both dense layers.
        dtype: of the computation.
    """

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Vectors, context: Context) -> Vectors:
        """Returns the block's output."""
        h = dense(self.width, name="dense_0", dtype=self.dtype)(nn.swish(x))
        if context.condition is not None:
            h = h * class_gain(self.width, context, self.dtype)
        h = h + dense(self.width, name="time", dtype=self.dtype)(context.time)
        h = dense(self.width, name="dense_1", scale=0.0, dtype=self.dtype)(nn.swish(h))
        return residual_sum(x, h, context)
