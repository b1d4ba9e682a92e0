"""Fields of `config.objective`, one class for each loss. What they configure: scoreflow_jax/objectives."""

import dataclasses
from typing import Literal

from scoreflow_jax.settings.fields import FieldError, Section, field


@dataclasses.dataclass(frozen=True, kw_only=True)
class PathConstrainedFields(Section):
    """The paper's loss."""

    weight: Literal["power", "velocity", "noise", "data", "logit_normal"] = field(
        "power",
        "weight of each time: power is t^-p; velocity, noise and data are named for the error that the loss becomes; "
        "logit_normal favours the middle",
    )
    weight_exponent: float = field(1.0, "p in lambda(t) = t^-p: 1 is the paper's, 2 rectified flow, 0 plain eq. 19")
    num_steps: int = field(0, "steps of eq. 19's x(t) by the drift; 0: algorithm 1's one step", least=0)
    method: Literal["euler", "heun"] = field("euler", "Runge-Kutta method of those steps")

    def __post_init__(self) -> None:
        """Refuses an exponent that is singular at t = 0."""
        super().__post_init__()
        if self.weight_exponent > 2:
            raise FieldError(
                f"weight_exponent is {self.weight_exponent}, expected at most 2: t^(2 - p) must stay finite at t = 0. "
                "The paper's is 1, rectified flow's 2."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoisingFields(Section):
    """Denoising score matching."""

    weight: Literal["variance", "likelihood"] = field(
        "variance", "weight of each time: variance is sigma^2, likelihood is g^2"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class InterpolantFields(Section):
    """The losses of stochastic interpolants."""

    path_rate: float = field(
        1.0, "learning rate of a learned path's numbers, times the network's; 0: they stay", least=0
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationFields(Section):
    """Distillation of a rectified flow; --mode=reflow sets it."""

    distance: Literal["l2", "lpips"] = field("l2", "how the distance to the end of the teacher's solution is measured")
    lpips_backbone: str | None = field(None, "torchvision's alexnet-owt-7be5be79.pth, for lpips")
    lpips_heads: str | None = field(None, "alex.pth of the lpips package, version 0.1, for lpips")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowMapFields(Section):
    """Flow maps: one network for the drift and for where it leads, in one call and both directions."""

    rule: Literal["lagrangian", "semigroup", "eulerian"] = field(
        "lagrangian",
        "what holds of a flow map and is asked of it: by derivative to s, by two halves, or by derivative to t",
    )
    diagonal: float = field(0.5, "share of each batch with s = t, on which the drift is trained", above=0, below=1)
    weight_exponent: float = field(2.0, "p in lambda(t) = t^-p of the drift's loss, as of path_constrained", most=2)
    ends: float = field(
        0.5,
        "share of the jumps, of evenly drawn times, that begin where generating and encoding do, at t = 0 or t = 1",
        least=0,
        below=1,
    )
    weight: float = field(1.0, "weight of the jumps' error beside the drift's", least=0)
    normalize: float = field(0.0, "power of its own square error that a jump's is divided by; 0: none", least=0, most=1)
    normalize_floor: float = field(0.1, "added to that square error, of the order of the drift's", above=0)
    tangent: Literal["own", "conditional"] = field(
        "own", "of eulerian: the velocity that points move by, the network's own or x1 - x0 as in MeanFlow"
    )
    teacher: str | None = field(
        None,
        "workdir of a run, or a published model such as pretrained:cifar10-small, whose averaged drift is learned from and begun "
        "with; None: the network's own and the data",
    )
    teacher_sha256: str | None = field(None, "fingerprint of its weights: training fills it in")
    reversal: float = field(0.0, "weight of the error after the way there and back; 0: none", least=0)


OBJECTIVES: dict[str, type[Section]] = {
    "path_constrained": PathConstrainedFields,
    "denoising_score_matching": DenoisingFields,
    "interpolant": InterpolantFields,
    "distillation": DistillationFields,
    "flow_map": FlowMapFields,
}
