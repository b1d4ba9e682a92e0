"""Fields of `config.model`, one class for each network. What they configure: scoreflow_jax/models.

flax's modules are dataclasses that can be changed, and what they inherit must be too; so these classes are no `Section`, and
their fields are checked where the network is built.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from scoreflow_jax.settings.fields import Section, field


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioning(Section):
    """What the section has besides the network's own fields."""

    conditional: bool | None = field(True, "the network is told classes; None: if the data have several")


@dataclasses.dataclass(kw_only=True)
class NetworkFields:
    """What every network has."""

    smoke: ClassVar[Mapping[str, Any]] = {}
    """Fields of the smoke variants of configs, a tiny network."""

    label_dropout: float = field(
        0.0, "probability of training without the label, for classifier-free guidance", least=0, below=1
    )
    dtype: Literal["float32", "bfloat16"] = field(
        "float32", "type of training's computation; bfloat16 is for accelerators and processors that have it"
    )
    two_times: bool = field(
        False, "the network is told a second time and jumps to it, as objective.name=flow_map trains", added=True
    )
    most_guidance: float = field(
        0.0,
        "largest weight of guidance that jumps are told, for guided samples in one call; 0: none",
        least=0,
        added=True,
    )


@dataclasses.dataclass(kw_only=True)
class NCSNppFields(NetworkFields):
    """DDPM++ and NCSN++: a U-Net for images, by default the paper's for CIFAR-10."""

    smoke: ClassVar[Mapping[str, Any]] = {"base_channels": 8, "channel_multipliers": (1, 1), "num_blocks": 1}

    base_channels: int = field(128, "channels at the full resolution, a multiple of 4 (nf in score_sde)", least=4)
    channel_multipliers: tuple[int, ...] = field(
        (1, 2, 2, 2), "for each resolution, from the full one down; one fewer halvings than entries", least=1
    )
    num_blocks: int = field(4, "residual blocks at each resolution", least=0)
    attention_resolutions: tuple[int, ...] = field((16,), "heights at which self-attention follows the blocks", least=1)
    dropout: float = field(0.15, "rate inside the residual blocks while training", least=0, below=1)
    skip_rescale: bool = field(True, "divide residual sums by sqrt(2)")
    block: Literal["biggan", "ddpm"] = field("biggan", "whether blocks change the resolution too, or convolutions do")
    fir_kernel: tuple[float, ...] = field(
        (), "taps of the filter for changing resolution, (1.0, 3.0, 3.0, 1.0) in NCSN++; none: nearest pixels and means"
    )
    progressive_output: Literal["none", "output_skip", "residual"] = field(
        "none", "output_skip adds images made at every resolution; residual adds activations"
    )
    progressive_input: Literal["none", "input_skip", "residual"] = field(
        "none", "input_skip adds the shrunk image to every resolution; residual adds its features"
    )
    progressive_combine: Literal["sum", "cat"] = field("sum", "how input_skip joins them")
    embedding: Literal["positional", "fourier"] = field(
        "positional", "how time_scale t is embedded; fourier embeds its logarithm"
    )
    fourier_scale: float = field(16.0, "standard deviation of the Fourier frequencies, drawn once and never trained")
    time_scale: float = field(
        999.0, "what times are multiplied by; 1 where the network is told noise levels themselves"
    )
    scale_by_sigma: bool = field(
        False, "divide the result by the noise level: time_scale t, or that entry of the next three's levels"
    )
    sigma_min: float = field(0.01, "lowest noise level", above=0)
    sigma_max: float = field(50.0, "highest noise level", above=0)
    num_scales: int = field(1000, "noise levels, geometrically spaced", least=1)
    centered: bool = field(True, "False: the network maps [0, 1] to [-1, 1] itself, as score_sde's VE networks")
    remat_resolutions: tuple[int, ...] = field(
        (), "heights at which to recompute activations in the backward pass, to save memory", least=1
    )
    patch: Literal[1, 2, 4] = field(
        1, "side of the patches of pixels folded into channels; heights above are then the folded ones"
    )


@dataclasses.dataclass(kw_only=True)
class MLPFields(NetworkFields):
    """Dense residual blocks, for points of a table."""

    smoke: ClassVar[Mapping[str, Any]] = {"width": 16, "num_blocks": 1}

    width: int = field(256, "numbers in every hidden layer and in the embeddings; even", least=4)
    num_blocks: int = field(4, "residual blocks, of two dense layers each", least=1)
    skip_rescale: bool = field(True, "divide residual sums by sqrt(2)")
    time_scale: float = field(
        10.0, "time is embedded by sines of time_scale t; a large one ripples and costs evaluations"
    )


MODELS: dict[str, type[NetworkFields]] = {"ncsnpp": NCSNppFields, "mlp": MLPFields}
