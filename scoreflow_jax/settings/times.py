"""Fields of `config.times`, one class for each distribution of training times. What they configure: training/times.py."""

import dataclasses

from scoreflow_jax.settings.fields import FieldError, Section, field


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimesFields(Section):
    """How training times are drawn."""

    low_discrepancy: bool = field(False, "spread evenly over each batch")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitNormalFields(TimesFields):
    """sigmoid of N(mean, std^2)."""

    mean: float = field(0.0, "mean of the logit; positive means favour the data")
    std: float = field(1.0, "standard deviation of the logit", above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UShapedFields(TimesFields):
    """Both ends more than the middle."""

    steepness: float = field(
        4.0, "how much more the ends are drawn than the middle; 4 as published for reflow", above=0
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridFields(TimesFields):
    """Equally likely times of a grid."""

    count: int = field(1000, "number of times in the grid", least=1)
    with_end: bool = field(
        True, "from 0 to 1, as DDPM's steps; else to 1 - 1/count, where so many Euler steps are made"
    )

    def __post_init__(self) -> None:
        """Refuses too few times."""
        super().__post_init__()
        if self.count < 1 + self.with_end:
            raise FieldError(f"count is {self.count}, expected at least {1 + self.with_end}")


TIMES: dict[str, type[TimesFields]] = {
    "uniform": TimesFields,
    "logit_normal": LogitNormalFields,
    "u_shaped": UShapedFields,
    "grid": GridFields,
}
