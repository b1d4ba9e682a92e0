"""The drift network: DDPM++ of Song et al. 2021 (arXiv:2011.13456, appendix H), with ScoreFlow's conditioning (eq. 21).

A U-Net: `num_blocks` residual blocks at each resolution on the way down, a middle with attention, `num_blocks` + 1 on the
way up, each of which takes one stored activation of the way down; self-attention at chosen resolutions.
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from scoreflow_jax.models.base import Network
from scoreflow_jax.models.blocks import Activations, AttentionBlock, GroupNorm, ResidualBlock, Vectors, conv3x3, dense
from scoreflow_jax.models.embeddings import positional_embedding
from scoreflow_jax.typing import Images, Labels, Times


class NCSNpp(Network):
    """f(x, t, c): images, times and labels to a drift of the images' shape.

    Attributes:
        num_classes: number of classes; 0 is an unconditional network, which takes no labels.
        base_channels: channels at the full resolution, a multiple of 4 (nf in score_sde).
        channel_multipliers: for each resolution, from the full one down; one fewer halvings than entries.
        num_blocks: residual blocks at each resolution.
        attention_resolutions: heights at which self-attention follows the blocks.
        dropout: rate inside the residual blocks while training.
        skip_rescale: divide residual sums by sqrt(2).
        dtype: of the computation (a field of the base); parameters and result are float32.
    """

    num_classes: int = 0
    base_channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 2)
    num_blocks: int = 4
    attention_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.1
    skip_rescale: bool = True

    @nn.compact
    def __call__(self, x: Images, t: Times, label: Labels | None, train: bool = False) -> Images:
        """Returns dx/dt at the images x and times t for the given labels.

        Raises:
            ValueError: labels given to an unconditional network or missing for a conditional one, or an image that
                cannot be halved as often as there are multipliers.
        """
        self.check_shape(x.shape[1:])
        self._check_label(label)
        time, condition = self._embed(t, label)
        stack = self._down(x.astype(self.dtype), time, condition, train)
        h = self._middle(stack[-1], time, condition, train)
        h = self._up(h, stack, time, condition, train)
        h = nn.swish(GroupNorm(dtype=self.dtype, name="out_norm")(h))
        return conv3x3(x.shape[-1], name="out_conv", scale=0.0, dtype=self.dtype)(h).astype(jnp.float32)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuses images of a shape (height, width, channels) that cannot be halved often enough.

        Raises:
            ValueError: with what would do; also for a dropout rate outside [0, 1).
        """
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, expected at least 0 and less than 1")
        halvings = len(self.channel_multipliers) - 1
        height, width = shape[:2]
        if height % 2**halvings or width % 2**halvings:
            raise ValueError(
                f"images of {height}x{width} cannot be halved {halvings} times, as channel_multipliers "
                f"{self.channel_multipliers} ask: use sides that are multiples of {2**halvings}, or fewer multipliers"
            )

    def _check_label(self, label: Labels | None) -> None:
        if (label is None) != (self.num_classes == 0):
            raise ValueError(
                f"got {'no labels' if label is None else 'labels'} for a network of {self.num_classes} classes: "
                "a conditional network needs them and an unconditional one (num_classes 0) takes None"
            )

    def _embed(self, t: Times, label: Labels | None) -> tuple[Vectors, Vectors | None]:
        """Activated embeddings of time and class, each of 4 base_channels."""
        width = 4 * self.base_channels
        h = positional_embedding(t, self.base_channels).astype(self.dtype)
        h = dense(width, name="time_0", dtype=self.dtype)(h)
        time = dense(width, name="time_1", dtype=self.dtype)(nn.swish(h))
        if label is None:
            return nn.swish(time), None
        table = nn.Embed(
            self.num_classes,
            width,
            embedding_init=nn.initializers.normal(1.0),
            dtype=self.dtype,
            name="class_embedding",
        )
        return nn.swish(time), table(label)

    def _block(self, channels: int, name: str, resample: Literal["none", "up", "down"] = "none") -> ResidualBlock:
        return ResidualBlock(channels, self.dropout, resample, self.skip_rescale, self.dtype, name=name)

    def _attention(self, h: Activations, name: str) -> Activations:
        return AttentionBlock(self.skip_rescale, self.dtype, name=name)(h)

    def _down(self, x: Activations, time: Vectors, condition: Vectors | None, train: bool) -> list[Activations]:
        """Every activation that the way up will take, in order."""
        stack = [conv3x3(self.base_channels, name="in_conv", dtype=self.dtype)(x)]
        for level, multiplier in enumerate(self.channel_multipliers):
            channels = self.base_channels * multiplier
            for i in range(self.num_blocks):
                h = self._block(channels, f"down_{level}_block_{i}")(stack[-1], time, condition, train)
                if h.shape[1] in self.attention_resolutions:
                    h = self._attention(h, f"down_{level}_attention_{i}")
                stack.append(h)
            if level != len(self.channel_multipliers) - 1:
                stack.append(self._block(channels, f"down_{level}_resample", "down")(stack[-1], time, condition, train))
        return stack

    def _middle(self, h: Activations, time: Vectors, condition: Vectors | None, train: bool) -> Activations:
        channels = h.shape[-1]
        h = self._block(channels, "middle_block_0")(h, time, condition, train)
        h = self._attention(h, "middle_attention")
        return self._block(channels, "middle_block_1")(h, time, condition, train)

    def _up(
        self, h: Activations, stack: list[Activations], time: Vectors, condition: Vectors | None, train: bool
    ) -> Activations:
        for level, multiplier in reversed(list(enumerate(self.channel_multipliers))):
            channels = self.base_channels * multiplier
            for i in range(self.num_blocks + 1):
                h = jnp.concatenate([h, stack.pop()], axis=-1)
                h = self._block(channels, f"up_{level}_block_{i}")(h, time, condition, train)
            if h.shape[1] in self.attention_resolutions:
                h = self._attention(h, f"up_{level}_attention")
            if level:
                h = self._block(channels, f"up_{level}_resample", "up")(h, time, condition, train)
        return h
