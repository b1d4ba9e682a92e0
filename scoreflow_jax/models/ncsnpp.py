"""The drift network: DDPM++ and NCSN++ of Song et al. 2021 (arXiv:2011.13456, appendix H), conditioned by ScoreFlow's eq. 21.

A U-Net: `num_blocks` residual blocks at each resolution on the way down, a middle with attention, `num_blocks` + 1 on the
way up, each of which takes one stored activation of the way down; self-attention at chosen resolutions. DDPM++ resamples
plainly and embeds time by sines of 999 t. NCSN++ resamples through a filter, feeds the image in again at every resolution
(progressive input), may collect its output from every resolution (progressive output), and may embed the logarithm of the
noise level by random Fourier features.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scoreflow_jax.models.base import Network
from scoreflow_jax.models.blocks import (
    STEEPEST,
    Activations,
    AttentionBlock,
    Context,
    GroupNorm,
    Resample,
    ResamplingConv,
    ResidualBlock,
    conv3x3,
    dense,
    embed_condition,
    embed_jump,
    residual_divisor,
    residual_sum,
)
from scoreflow_jax.models.embeddings import fourier_embedding, positional_embedding
from scoreflow_jax.models.resampling import downsample, upsample
from scoreflow_jax.settings.model import NCSNppFields
from scoreflow_jax.typing import Condition, Images, Times

Outputs = Float[Array, "batch height width outputs"]
"""`outputs` images side by side in the channels."""


class NCSNpp(NCSNppFields, Network):
    """f(x, t, c): images, times and conditions to a drift of the images' shape.

    With `scale_by_sigma` the result is divided by the noise level: time_scale * t under "fourier", and under "positional" entry
    time_scale * t of the `num_scales` levels. Folding patches of 2x2 into channels leaves a quarter of the positions, and so
    about a quarter of the computation.
    """

    @nn.compact
    def __call__(
        self,
        x: Images,
        t: Times,
        condition: Condition | None,
        train: bool = False,
        jump: Times | None = None,
        guidance: Times | None = None,
    ) -> Outputs:
        """Returns dx/dt, or what else it was trained for, at the images x and times t under the given conditions.

        With jump = s - t it is the mean of dx/dt from t to s, of networks that are told two times, guided by the given weight.

        Raises:
            ValueError: a condition that the network does not take or lacks, or an image that cannot be halved as often as
                there are multipliers.
        """
        self.check_shape(x.shape[1:])
        self.check_condition(condition)
        level = self.time_scale * t
        context = self._context(t, level, condition, train, jump, guidance)
        image = fold(x if self.centered else 2 * x - 1, self.patch).astype(self.dtype)
        stack = self._down(image, context, train)
        h = self._middle(stack[-1], context, train)
        out = self._up(h, stack, self.outputs * image.shape[-1], context, train).astype(jnp.float32)
        # Each output by itself, so that they stand side by side in the channels whatever the patch.
        out = jnp.concatenate([unfold(part, self.patch) for part in jnp.split(out, self.outputs, axis=-1)], axis=-1)
        return out / self._sigma(level)[:, None, None, None] if self.scale_by_sigma else out

    @property
    def is_published(self) -> bool:
        """Whether checkpoints were published: yes, by score_sde and RectifiedFlow."""
        return True

    @property
    def steep_in_time(self) -> bool:
        """Sines of 999 t: a loss of 9.8 that grows; of 4 t it falls. Fourier features of log t are as steep."""
        return self.embedding == "fourier" or self.time_scale > STEEPEST

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuses images of a shape (height, width, channels) that cannot be halved often enough, and unknown choices.

        Raises:
            ValueError: with what would do; also for a value that its field may not have.
        """
        if len(shape) != 3:
            raise ValueError(f"ncsnpp takes images (height, width, channels), got points of shape {shape}: use mlp")
        self.check()
        if self.fir_kernel and (len(self.fir_kernel) < 2 or not sum(self.fir_kernel) > 0):
            raise ValueError(f"fir_kernel is {self.fir_kernel}, expected at least 2 taps of positive sum, or ()")
        halvings = len(self.channel_multipliers) - 1
        height, width = shape[:2]
        least = self.patch * 2**halvings
        if height % least or width % least:
            folded = f"folded by patches of {self.patch}x{self.patch} and " if self.patch > 1 else ""
            raise ValueError(
                f"images of {height}x{width} cannot be {folded}halved {halvings} times, as channel_multipliers "
                f"{self.channel_multipliers} ask: use sides that are multiples of {least}, or fewer multipliers"
            )

    def sigmas(self) -> np.ndarray:
        """The `num_scales` noise levels from sigma_max down to sigma_min, evenly spaced in the logarithm, in float64."""
        return np.exp(np.linspace(np.log(self.sigma_max), np.log(self.sigma_min), self.num_scales))

    def _sigma(self, level: Times) -> Times:
        if self.embedding == "fourier":
            return level
        table = jnp.asarray(self.sigmas(), jnp.float32)
        return table[jnp.clip(level.astype(jnp.int32), 0, self.num_scales - 1)]

    def _context(
        self,
        t: Times,
        level: Times,
        condition: Condition | None,
        train: bool,
        jump: Times | None,
        guidance: Times | None,
    ) -> Context:
        """Activated embeddings of time and condition, each of 4 base_channels."""
        width = 4 * self.base_channels
        if self.embedding == "fourier":
            draw = nn.initializers.normal(self.fourier_scale)
            frequencies = self.param(FOURIER, draw, (self.base_channels,), jnp.float32)
            h = fourier_embedding(jnp.log(level), jax.lax.stop_gradient(frequencies))
        else:
            h = positional_embedding(level, self.base_channels)
        h = dense(width, name="time_0", dtype=self.dtype)(h.astype(self.dtype))
        h = dense(width, name="time_1", dtype=self.dtype)(nn.swish(h))
        time = nn.swish(embed_jump(self, h, jump, guidance))
        divisor = residual_divisor(self.skip_rescale, t)
        return Context(time, *embed_condition(self, condition, width, train), divisor)

    def _block(
        self, h: Activations, channels: int, name: str, context: Context, train: bool, resample: Resample = "none"
    ) -> Activations:
        remat = train and h.shape[1] in self.remat_resolutions
        block = nn.remat(ResidualBlock, static_argnums=(3,)) if remat else ResidualBlock
        fields: dict[str, Any] = {"kind": self.block, "dropout": self.dropout, "taps": self.fir_kernel}
        return block(channels, resample=resample, dtype=self.dtype, name=name, **fields)(h, context, train)

    def _attention(self, h: Activations, name: str, context: Context) -> Activations:
        return AttentionBlock(self.dtype, name=name)(h, context)

    def _resample(
        self, h: Activations, name: str, context: Context, train: bool, resample: Literal["up", "down"]
    ) -> Activations:
        """A block that changes the resolution, or, among DDPM's blocks, a convolution."""
        if self.block == "ddpm":
            return ResamplingConv(h.shape[-1], resample, self.fir_kernel, self.dtype, name=name)(h)
        return self._block(h, h.shape[-1], name, context, train, resample)

    def _down(self, image: Activations, context: Context, train: bool) -> list[Activations]:
        """Every activation that the way up will take, in order."""
        pyramid = image
        stack = [conv3x3(self.base_channels, name="in_conv", dtype=self.dtype)(image)]
        for level, multiplier in enumerate(self.channel_multipliers):
            channels = self.base_channels * multiplier
            for i in range(self.num_blocks):
                h = self._block(stack[-1], channels, f"down_{level}_block_{i}", context, train)
                if h.shape[1] in self.attention_resolutions:
                    h = self._attention(h, f"down_{level}_attention_{i}", context)
                stack.append(h)
            if level != len(self.channel_multipliers) - 1:
                h = self._resample(stack[-1], f"down_{level}_resample", context, train, "down")
                h, pyramid = self._feed_in(h, pyramid, level, context)
                stack.append(h)
        return stack

    def _feed_in(
        self, h: Activations, pyramid: Activations, level: int, context: Context
    ) -> tuple[Activations, Activations]:
        """Progressive input: shrinks the pyramid and joins it to the activations."""
        channels, name = h.shape[-1], f"down_{level}_pyramid"
        if self.progressive_input == "input_skip":
            pyramid = downsample(pyramid, self.fir_kernel)
            features = dense(channels, name=name, dtype=self.dtype)(pyramid)
            joined = features + h if self.progressive_combine == "sum" else jnp.concatenate([features, h], axis=-1)
            return joined, pyramid
        if self.progressive_input == "residual":
            pyramid = ResamplingConv(channels, "down", self.fir_kernel, self.dtype, name=name)(pyramid)
            pyramid = residual_sum(pyramid, h, context)
            return pyramid, pyramid
        return h, pyramid

    def _middle(self, h: Activations, context: Context, train: bool) -> Activations:
        channels = h.shape[-1]
        h = self._block(h, channels, "middle_block_0", context, train)
        h = self._attention(h, "middle_attention", context)
        return self._block(h, channels, "middle_block_1", context, train)

    def _up(
        self, h: Activations, stack: list[Activations], channels_out: int, context: Context, train: bool
    ) -> Activations:
        """The image that the network returns."""
        pyramid: Any = None
        for level, multiplier in reversed(list(enumerate(self.channel_multipliers))):
            channels = self.base_channels * multiplier
            for i in range(self.num_blocks + 1):
                h = jnp.concatenate([h, stack.pop()], axis=-1)
                h = self._block(h, channels, f"up_{level}_block_{i}", context, train)
            if h.shape[1] in self.attention_resolutions:
                h = self._attention(h, f"up_{level}_attention", context)
            h, pyramid = self._collect(h, pyramid, level, channels_out, context)
            if level:
                h = self._resample(h, f"up_{level}_resample", context, train, "up")
        return (
            self._norm_conv(h, channels_out, "out", scale=0.0) if self.progressive_output != "output_skip" else pyramid
        )

    def _collect(
        self, h: Activations, pyramid: Any, level: int, channels_out: int, context: Context
    ) -> tuple[Activations, Any]:
        """Progressive output: enlarges the pyramid, None at the lowest resolution, and adds what this one has to say."""
        name = f"up_{level}_pyramid"
        if self.progressive_output == "output_skip":
            made = self._norm_conv(h, channels_out, name, scale=0.0)
            return h, made if pyramid is None else upsample(pyramid, self.fir_kernel) + made
        if self.progressive_output == "residual" and pyramid is None:
            return h, self._norm_conv(h, h.shape[-1], name, scale=1.0)
        if self.progressive_output == "residual":
            enlarge = ResamplingConv(h.shape[-1], "up", self.fir_kernel, self.dtype, name=f"{name}_resample")
            pyramid = residual_sum(enlarge(pyramid), h, context)
            return pyramid, pyramid
        return h, pyramid

    def _norm_conv(self, h: Activations, channels: int, name: str, *, scale: float) -> Activations:
        h = nn.swish(GroupNorm(dtype=self.dtype, name=f"{name}_norm")(h))
        return conv3x3(channels, name=f"{name}_conv", scale=scale, dtype=self.dtype)(h)


def fold(x: Images, patch: int) -> Activations:
    """Patches of pixels into channels: (b, h, w, c) to (b, h / patch, w / patch, patch^2 c). Nothing is computed."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // patch, width // patch, patch * patch * channels)


def unfold(x: Activations, patch: int) -> Images:
    """The inverse of `fold`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, patch, patch, channels // patch**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height * patch, width * patch, channels // patch**2)


FOURIER = "fourier_frequencies"
"""Name of the one parameter that is not trained."""
