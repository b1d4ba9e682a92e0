"""The pieces of DDPM++ and NCSN++: normalization, convolutions, attention and the conditional residual blocks.

Every sub-module is named by hand: the names are those of the checkpoints and must not change with the order of lines.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from scoreflow_jax.models.base import Network
from scoreflow_jax.models.convolution import convolve3x3
from scoreflow_jax.models.embeddings import positional_embedding
from scoreflow_jax.models.portable import by_platform
from scoreflow_jax.models.resampling import Taps, downsample, filter_images, upsample
from scoreflow_jax.typing import Condition, Images, State, Times

Vectors = Float[Array, "batch features"]
Activations = Float[Array, "batch _ _ _"]
"""Images inside the network, whose size and channels change from block to block."""
Resample = Literal["none", "up", "down"]


STEEPEST = 30.0
"""Time scale up to which a network is trained by its derivative by t."""


class Context(NamedTuple):
    """What every block is told besides its input.

    Attributes:
        time: activated embedding of time.
        condition: embedding of the condition; None where there is none, which is emb_c = 1 in eq. 21.
        keep: which examples keep their condition while training with label dropout; None: all.
        divisor: of residual sums, see `residual_divisor`.
    """

    time: Vectors
    condition: Vectors | None
    keep: Bool[Array, " batch"] | None
    divisor: Float[Array, ""]


def scaled_init(scale: float) -> Callable[..., Any]:
    """Uniform, with variance scale / mean of fan-in and fan-out; scale 0 stands for 1e-10, as in score_sde."""
    return nn.initializers.variance_scaling(scale or 1e-10, "fan_avg", "uniform")


def conv3x3(channels: int, *, name: str, dtype: Any, scale: float = 1.0) -> nn.Conv:
    """A 3x3 convolution that keeps the resolution.

    Args:
        channels: of the result.
        name: of the sub-module, as checkpoints have it.
        dtype: to compute in.
        scale: of the initial kernel, see `scaled_init`.
    """

    def convolve(x: Any, kernel: Any, *_: Any, **__: Any) -> Any:
        """Takes the place of lax.conv_general_dilated; strides and padding are those of `convolve3x3`."""
        return convolve3x3(x, kernel)

    return nn.Conv(
        channels, (3, 3), kernel_init=scaled_init(scale), dtype=dtype, conv_general_dilated=convolve, name=name
    )


def dense(features: int, *, name: str, dtype: Any, scale: float = 1.0) -> nn.Dense:
    """A dense layer; on images it is a 1x1 convolution.

    Args:
        features: of the result.
        name: of the sub-module, as checkpoints have it.
        dtype: to compute in.
        scale: of the initial kernel, see `scaled_init`.
    """
    return nn.Dense(features, kernel_init=scaled_init(scale), dtype=dtype, name=name)


def embed_condition(
    network: Network, condition: Condition | None, width: int, train: bool
) -> tuple[Vectors | None, Bool[Array, " batch"] | None]:
    """`Context.condition` and `Context.keep`, by sub-modules of the network whose method calls this."""
    if condition is None:
        return None, None
    if network.condition_dim:
        embedded = dense(width, name="condition_embedding", dtype=network.dtype)(condition.astype(network.dtype))
    else:
        normal = nn.initializers.normal(1.0)
        table = nn.Embed(network.num_classes, width, embedding_init=normal, dtype=network.dtype, name="class_embedding")
        embedded = table(condition)
    if not (train and network.label_dropout):
        return embedded, None
    return embedded, jax.random.bernoulli(network.make_rng("dropout"), 1 - network.label_dropout, condition.shape[:1])


def embed_jump(network: Network, time: Vectors, jump: Times | None, guidance: Times | None) -> Vectors:
    """The embedding of time with what the second time and the weight of guidance add to it, each as `_embed_change`.

    Args:
        network: which is told them; its method calls this.
        time: embedding of the first time.
        jump: s - t of each example, in [-1, 1]; None: the network is asked for the drift.
        guidance: weight of each jump, from 1 to `network.most_guidance`; None: 1.
    """
    if jump is not None:
        time = time + _embed_change(network, "jump", jump, time.shape[-1])
    if guidance is not None:
        share = (guidance - 1.0) / max(network.most_guidance - 1.0, 1e-6)
        time = time + _embed_change(network, "guidance", share, time.shape[-1])
    return time


def _embed_change(network: Network, name: str, value: Times, width: int) -> Vectors:
    """E(value) - E(0), nothing at 0 whatever was learned: there the network is the drift, by the program of a drift.

    E begins at 0, so that a trained drift jumps by its slope before the first step. Its sines are slow, of 8 times the value and
    less, since the derivative by s has to be learned too.
    """
    # In float32: of two numbers near each other bfloat16 would leave no difference.
    hidden = dense(width, name=f"{name}_0", dtype=jnp.float32)
    both = jnp.concatenate([value, jnp.zeros_like(value)])
    h = nn.swish(hidden(positional_embedding(8.0 * both, width // 2, max_period=32.0)))
    there, here = jnp.split(h, 2)
    last = nn.Dense(width, use_bias=False, kernel_init=nn.initializers.zeros, dtype=jnp.float32, name=f"{name}_1")
    return last(there - here).astype(network.dtype)


def class_gain(channels: int, context: Context, dtype: Any) -> Float[Array, "batch channel"]:
    """The gain emb_c of eq. 21: around 1, so that the untrained block is close to the unconditional one; 1 where dropped.

    Args:
        channels: how many it multiplies.
        context: whose condition it is of.
        dtype: to compute in.
    """
    gain = nn.Dense(
        channels, kernel_init=scaled_init(0.1), bias_init=nn.initializers.ones, dtype=dtype, name="class_gain"
    )(context.condition)
    return gain if context.keep is None else jnp.where(context.keep[:, None], gain, jnp.ones_like(gain))


def residual_divisor(rescale: bool, t: Float[Array, " batch"]) -> Float[Array, ""]:
    """sqrt(2), by which residual sums are divided to keep their variance, or 1.

    On CPU it comes out of the times, so that the compiler cannot know it: XLA would turn a division by a constant into a
    multiplication, take that for cheap, and compute the whole chain of residual gradients anew for everything that uses one
    of them (a seventh of the training step, docs/performance.md). A division is not repeated.
    """
    square = 2.0 if rescale else 1.0
    return by_platform(
        lax.stop_gradient(t),
        cpu=lambda t: jnp.sqrt(square + 0.0 * t[0]),
        default=lambda _: jnp.sqrt(jnp.float32(square)),
    )


def residual_sum(x: State, h: State, context: Context) -> State:
    """The sum of a residual block, (x + h) / divisor.

    Args:
        x: what goes past the block.
        h: what the block adds, of the shape of x.
        context: has the divisor.
    """
    return (x + h) / context.divisor.astype(x.dtype)


class GroupNorm(nn.Module):
    """Group normalization with a scale and a bias for each channel; statistics in float32.

    The sums run over space first, channel by channel, and over the channels of a group afterwards, on a small array: XLA
    makes that one pass over the data on CPU, where flax's reshape to groups takes several. The variance is the mean square less
    the squared mean, as flax's is: it loses its digits where the mean is a thousand times the deviation.

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


class Dropout(nn.Module):
    """Sets activations to zero at random and scales the others up, from 16 random bits each.

    Attributes:
        rate: the probability of zero, taken to the nearest 1/65536. flax's Dropout draws 32 bits.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Activations, train: bool) -> Activations:
        """Returns x itself unless training."""
        threshold = min(round(self.rate * 2**16), 2**16 - 1)
        if not train or not threshold:
            return x
        pairs = jax.random.bits(self.make_rng("dropout"), (*x.shape[:-1], -(-x.shape[-1] // 2)), jnp.uint32)
        bits = lax.bitcast_convert_type(pairs, jnp.uint16).reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
        return jnp.where(bits >= threshold, x * (2**16 / (2**16 - threshold)), jnp.zeros_like(x))


class AttentionBlock(nn.Module):
    """Single-head self-attention over the pixels of an image, with a residual connection.

    Attributes:
        dtype: of the computation.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Images, context: Context) -> Images:
        """Returns x plus attention over it."""
        batch, height, width, channels = x.shape
        h = GroupNorm(dtype=self.dtype, name="norm")(x).reshape(batch, height * width, 1, channels)
        query, key, value = (dense(channels, name=n, scale=0.1, dtype=self.dtype)(h) for n in ("query", "key", "value"))
        h = jax.nn.dot_product_attention(query, key, value)
        h = dense(channels, name="out", scale=0.0, dtype=self.dtype)(h).reshape(x.shape)
        return residual_sum(x, h, context)


class ResamplingConv(nn.Module):
    """Doubles or halves the resolution with a 3x3 convolution, whose padding and the filter's are one.

    Attributes:
        channels: of the result.
        resample: "up" or "down".
        taps: of the filter; none: nearest pixels before the convolution, or a convolution of stride 2.
        dtype: of the computation.
    """

    channels: int
    resample: Resample
    taps: Taps = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Images) -> Activations:
        """Returns images of twice or half the size."""
        kernel = self.param("kernel", scaled_init(1.0), (3, 3, x.shape[-1], self.channels), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), jnp.float32)
        out = self._resample(x, kernel.astype(self.dtype))
        return out + bias.astype(self.dtype)[None, None, None, :]

    def _resample(self, x: Any, kernel: Any) -> Any:
        def convolve(x: Any, **how: Any) -> Any:
            return lax.conv_general_dilated(x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **how)

        extra = len(self.taps) - 2
        if self.resample == "up":
            if not self.taps:
                return convolve3x3(upsample(x), kernel)
            # The convolution over pixels with zeros between them, on all places that it reaches, and then the filter.
            x = convolve(x, window_strides=(1, 1), padding=((2, 2), (2, 2)), lhs_dilation=(2, 2))
            return filter_images(x, self.taps, gain=4.0, padding=((extra - 1) // 2 + 1, (extra - 2) // 2 + 1))
        if not self.taps:
            return convolve(x, window_strides=(2, 2), padding=((0, 1), (0, 1)))
        x = filter_images(x, self.taps, padding=((extra + 3) // 2, (extra + 2) // 2))
        return convolve(x, window_strides=(2, 2), padding="VALID")


class ResidualBlock(nn.Module):
    """score_sde's residual blocks, BigGAN's or DDPM's, conditioned by eq. 21 of ScoreFlow.

    The activations between the two convolutions become emb_c * a + emb_t, with emb_t from the time embedding and emb_c from
    the embedding of the condition, one number per channel each. Without a condition emb_c is 1, which is the published
    unconditional block.

    Attributes:
        channels: of the result.
        kind: "biggan", which can change the resolution, or "ddpm", which cannot; they differ in the skip connection's
            initialization too.
        dropout: rate, before the second convolution.
        resample: change the resolution by two, after the first activation and on the skip connection.
        taps: of the filter by which it changes.
        dtype: of the computation.
    """

    channels: int
    kind: Literal["biggan", "ddpm"] = "biggan"
    dropout: float = 0.0
    resample: Resample = "none"
    taps: Taps = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Images, context: Context, train: bool) -> Activations:
        """Returns the block's output."""
        change = {"none": lambda v, _: v, "up": upsample, "down": downsample}[self.resample]
        h = nn.swish(GroupNorm(dtype=self.dtype, name="norm_0")(x))
        h, skip = change(h, self.taps), change(x, self.taps)
        h = conv3x3(self.channels, name="conv_0", dtype=self.dtype)(h)
        if context.condition is not None:
            h = h * class_gain(self.channels, context, self.dtype)[:, None, None, :]
        h = h + dense(self.channels, name="time", dtype=self.dtype)(context.time)[:, None, None, :]
        h = nn.swish(GroupNorm(dtype=self.dtype, name="norm_1")(h))
        h = Dropout(self.dropout, name="dropout")(h, train)
        h = conv3x3(self.channels, name="conv_1", scale=0.0, dtype=self.dtype)(h)
        if x.shape[-1] != self.channels or self.resample != "none":
            scale = 1.0 if self.kind == "biggan" else 0.1
            skip = dense(self.channels, name="skip", scale=scale, dtype=self.dtype)(skip)
        return residual_sum(skip, h, context)
