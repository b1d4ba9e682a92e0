"""The pieces of DDPM++: normalization, convolution, attention and the conditional residual block.

Every sub-module is named by hand: the names are those of the checkpoints and must not change with the order of lines.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scoreflow_jax.models.resampling import downsample_mean, upsample_nearest
from scoreflow_jax.typing import Images

Vectors = Float[Array, "batch features"]
Activations = Float[Array, "batch _ _ _"]
"""Images inside the network, whose size and channels change from block to block."""


def scaled_init(scale: float) -> Callable[..., Any]:
    """Uniform, with variance scale / mean of fan-in and fan-out; scale 0 stands for 1e-10, as in score_sde."""
    return nn.initializers.variance_scaling(scale or 1e-10, "fan_avg", "uniform")


def conv3x3(channels: int, *, name: str, dtype: Any, scale: float = 1.0) -> nn.Conv:
    """A 3x3 convolution that keeps the resolution."""
    return nn.Conv(channels, (3, 3), padding="SAME", kernel_init=scaled_init(scale), dtype=dtype, name=name)


def dense(features: int, *, name: str, dtype: Any, scale: float = 1.0) -> nn.Dense:
    """A dense layer; on images it is a 1x1 convolution."""
    return nn.Dense(features, kernel_init=scaled_init(scale), dtype=dtype, name=name)


class GroupNorm(nn.Module):
    """Group normalization with a scale and a bias for each channel; statistics in float32.

    The sums run over space first, channel by channel, and over the channels of a group afterwards, on a small array: XLA
    makes that one pass over the data on CPU, where flax's reshape to groups takes several.

    Attributes:
        max_groups: the number of groups is min(channels // 4, max_groups), score_sde's rule.
        epsilon: added to the variance.
        dtype: of the result.
    """

    max_groups: int = 32
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """Normalizes each group of channels of each image to mean 0 and variance 1, then scales and shifts."""
        batch, channels = x.shape[0], x.shape[-1]
        groups = max(1, min(channels // 4, self.max_groups))
        if channels % groups:
            raise ValueError(
                f"{channels} channels do not divide into {groups} groups: choose base_channels as a multiple of 4, "
                f"and of {4 * self.max_groups} where it is larger than that"
            )
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        x32 = x.astype(jnp.float32)
        moments = jnp.stack([x32.mean(axis=(1, 2)), jnp.square(x32).mean(axis=(1, 2))])
        moments = moments.reshape(2, batch, groups, channels // groups).mean(axis=-1)
        mean, square = jnp.repeat(moments, channels // groups, axis=-1)
        gain = scale[None] * jax.lax.rsqrt(jnp.maximum(square - mean * mean, 0.0) + self.epsilon)
        offset = bias[None] - mean * gain
        return (x32 * gain[:, None, None, :] + offset[:, None, None, :]).astype(self.dtype)


class AttentionBlock(nn.Module):
    """Single-head self-attention over the pixels of an image, with a residual connection.

    Attributes:
        skip_rescale: divide the residual sum by sqrt(2).
        dtype: of the computation.
    """

    skip_rescale: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """Returns x plus attention over it."""
        batch, height, width, channels = x.shape
        h = GroupNorm(dtype=self.dtype, name="norm")(x).reshape(batch, height * width, 1, channels)
        query, key, value = (dense(channels, name=n, scale=0.1, dtype=self.dtype)(h) for n in ("query", "key", "value"))
        h = jax.nn.dot_product_attention(query, key, value)
        h = dense(channels, name="out", scale=0.0, dtype=self.dtype)(h).reshape(x.shape)
        return residual_sum(x, h, self.skip_rescale)


def residual_sum(x: Images, h: Images, rescale: bool) -> Images:
    """x + h, divided by sqrt(2) to keep its variance where `rescale` says so."""
    return (x + h) * (2**-0.5) if rescale else x + h


class ResidualBlock(nn.Module):
    """BigGAN's residual block as in score_sde's DDPM++, conditioned by eq. 21 of ScoreFlow.

    The activations between the two convolutions become emb_c * a + emb_t, with emb_t from the time embedding and emb_c from
    the class embedding, one number per channel each. Without a class emb_c is 1, which is the published unconditional
    block.

    Attributes:
        channels: of the result.
        dropout: rate, before the second convolution.
        resample: change the resolution by two, after the first activation and on the skip connection.
        skip_rescale: divide the residual sum by sqrt(2).
        dtype: of the computation.
    """

    channels: int
    dropout: float = 0.0
    resample: Literal["none", "up", "down"] = "none"
    skip_rescale: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Images, time: Vectors, condition: Vectors | None, train: bool) -> Activations:
        """Returns the block's output for activated embeddings of time and, unless unconditional, of the condition."""
        resample = {"none": lambda v: v, "up": upsample_nearest, "down": downsample_mean}[self.resample]
        h = nn.swish(GroupNorm(dtype=self.dtype, name="norm_0")(x))
        h, skip = resample(h), resample(x)
        h = conv3x3(self.channels, name="conv_0", dtype=self.dtype)(h)
        if condition is not None:
            h = h * self._class_gain(condition)[:, None, None, :]
        h = h + dense(self.channels, name="time", dtype=self.dtype)(time)[:, None, None, :]
        h = nn.swish(GroupNorm(dtype=self.dtype, name="norm_1")(h))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = conv3x3(self.channels, name="conv_1", scale=0.0, dtype=self.dtype)(h)
        if x.shape[-1] != self.channels or self.resample != "none":
            skip = dense(self.channels, name="skip", dtype=self.dtype)(skip)
        return residual_sum(skip, h, self.skip_rescale)

    def _class_gain(self, condition: Vectors) -> Float[Array, "batch channel"]:
        """emb_c of eq. 21: around 1, so that the untrained block is close to the unconditional one."""
        return nn.Dense(
            self.channels,
            kernel_init=scaled_init(0.1),
            bias_init=nn.initializers.ones,
            dtype=self.dtype,
            name="class_gain",
        )(condition)
