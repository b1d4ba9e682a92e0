"""Fields of `config.path`, one class for each path, and of `config.parameterization`. They configure scoreflow_jax/paths."""

import dataclasses
from typing import Literal

from scoreflow_jax.settings.fields import FieldError, Section, field

Latent = Literal["none", "brownian", "sine"]
Prediction = Literal["velocity", "data", "noise", "score"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PathFields(Section):
    """The times between which a path is trained and solved."""

    t_min: float = field(0.0, "the first time, where noise is", least=0, below=1)
    t_max: float = field(1.0, "the last time, where data are", above=0, most=1)

    def __post_init__(self) -> None:
        """Refuses limits with no time between them."""
        super().__post_init__()
        if not self.t_min < self.t_max:
            raise FieldError(f"t_min and t_max are {self.t_min} and {self.t_max}, expected t_min < t_max")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AffineFields(PathFields):
    """A path alpha(t) x1 + sigma(t) x0 + gamma(t) z."""

    latent: Latent = field("none", "gamma(t), noise besides that of t = 0, which gives two data sets a score")
    latent_scale: float = field(1.0, "factor of gamma(t)", above=0)

    def __post_init__(self) -> None:
        """Refuses times at which gamma's derivative is infinite."""
        super().__post_init__()
        if self.latent == "brownian" and (self.t_min == 0 or self.t_max == 1):
            raise FieldError(
                f"latent is 'brownian', whose derivative is infinite at t = 0 and 1, but t_min and t_max are {self.t_min} and "
                f"{self.t_max}: set them to 1e-3 and 0.999, say, or take 'sine'"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SteepEndFields(AffineFields):
    """A path whose sigma has an infinite slope at t = 1."""

    def __post_init__(self) -> None:
        """Refuses t_max of 1."""
        super().__post_init__()
        if self.t_max >= 1:
            raise FieldError(
                f"t_max is {self.t_max}, expected less than 1, such as 0.999: the slope of sigma is infinite at t = 1"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VariancePreservingFields(SteepEndFields):
    """The plain variance-preserving path."""

    t_max: float = field(
        1.0 - 1e-5, "the last time; at the default its noise is 0.6 grey levels of 256", above=0, most=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VPFields(SteepEndFields):
    """The VP and the sub-VP SDE's path."""

    t_max: float = field(1.0 - 1e-3, "the last time, where data are", above=0, most=1)
    beta_min: float = field(0.1, "noise rate at the data", above=0)
    beta_max: float = field(20.0, "noise rate at the noise", above=0)

    def __post_init__(self) -> None:
        """Refuses rates that do not rise."""
        super().__post_init__()
        if not self.beta_min < self.beta_max:
            raise FieldError(f"beta_min and beta_max are {self.beta_min} and {self.beta_max}, expected 0 < min < max")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VEFields(AffineFields):
    """The VE SDE's path."""

    t_max: float = field(1.0 - 1e-5, "the last time, where data are", above=0, most=1)
    sigma_min: float = field(0.02, "noise level at the data, whose own are in [-1, 1]", above=0)
    sigma_max: float = field(100.0, "noise level at the noise", above=0)

    def __post_init__(self) -> None:
        """Refuses levels that do not rise."""
        super().__post_init__()
        if not self.sigma_min < self.sigma_max:
            raise FieldError(
                f"sigma_min and sigma_max are {self.sigma_min} and {self.sigma_max}, expected 0 < min < max"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDPMFields(AffineFields):
    """DDPM's chain of discrete steps."""

    num_scales: int = field(1000, "steps N of the chain", least=2)
    beta_first: float = field(1e-4, "noise rate of the first step", above=0, below=1)
    beta_last: float = field(2e-2, "noise rate of the last step", above=0, below=1)

    def __post_init__(self) -> None:
        """Refuses rates that fall."""
        super().__post_init__()
        if self.beta_first > self.beta_last:
            raise FieldError(
                f"beta_first and beta_last are {self.beta_first} and {self.beta_last}, expected 0 < first <= last < 1"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedFields(AffineFields):
    """A path whose shape is learned."""

    num_terms: int = field(8, "sines of each of its two sums", least=1)


PATHS: dict[str, type[PathFields]] = {
    "linear": AffineFields,
    "trigonometric": AffineFields,
    "variance_preserving": VariancePreservingFields,
    "vp": VPFields,
    "sub_vp": VPFields,
    "ve": VEFields,
    "ddpm": DDPMFields,
    "learned": LearnedFields,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterizationFields(Section):
    """What the network's output is, and what time it is given."""

    predicts: Prediction = field(
        "velocity", "what the network's output is; all are one thing on a path from Gaussian noise"
    )
    told: Literal["t", "reversed", "sigma"] = field(
        "t", "the time that the network gets: t; 1 - t, as score_sde's VP networks; sigma(t), as its VE networks"
    )
    unit_range: bool = field(False, "the network works on data in [0, 1], and on sigma in those units")
    scale_input: bool = field(
        False, "its input is divided by sqrt(alpha^2 + sigma^2): of order 1 however strong the noise"
    )
