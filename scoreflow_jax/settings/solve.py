"""Fields of `config.solver` and `config.sampler`. What they configure: scoreflow_jax/ode.py and sampling/stochastic.py."""

import dataclasses
from typing import Literal

from scoreflow_jax.settings.fields import FieldError, Section, field

Variance = Literal["posterior", "forward"]
"""The variance of an ancestral step: given the data (SMLD's, and DDPM's lower bound), or DDPM's beta, its upper bound."""

Method = Literal["euler", "heun", "midpoint", "bosh3", "dopri5", "tsit5", "dopri8", "flow_map"]
WITHOUT_ESTIMATE = ("euler", "flow_map")
"""Methods that cannot choose their steps, since nothing tells their error."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SolverFields(Section):
    """How ODEs are solved: the paper's RK45 at 1e-5."""

    method: Method = field(
        "dopri5",
        "a Runge-Kutta method, or flow_map, by a network that is told two times; euler and flow_map take num_steps",
    )
    rtol: float = field(1e-5, "relative tolerance of adaptive steps", above=0)
    atol: float = field(1e-5, "absolute tolerance of adaptive steps", above=0)
    num_steps: int | None = field(None, "this many equal steps instead of adaptive ones", least=1)
    per_sample: bool = field(False, "step sizes chosen for each image instead of for the batch")
    max_steps: int = field(4096, "steps, rejected ones included, after which a solve fails", least=1)
    precision: str = field(
        "highest", "precision of matrix products: on GPU and TPU the default for float32 is not float32", added=True
    )
    between: tuple[float, ...] = field(
        (),
        "times at which the jumps of flow_map meet, one fewer than num_steps; none: equal ones",
        added=True,
        above=0,
        below=1,
    )
    corrections: int = field(
        0,
        "network calls by which each jump of flow_map towards noise is corrected, until the jump back undoes it",
        added=True,
        least=0,
    )

    def __post_init__(self) -> None:
        """Refuses methods without an error estimate that are given no steps, and more steps than may be made."""
        super().__post_init__()
        if self.num_steps is None and self.method in WITHOUT_ESTIMATE:
            example = 100 if self.method == "euler" else 4
            raise ValueError(
                f"{self.method} has no error estimate to choose its steps by: give num_steps, for example {example}"
            )
        if self.per_sample and self.method == "flow_map":
            raise FieldError("per_sample is True, but flow_map controls no error: set it to False")
        if self.between and (self.method != "flow_map" or len(self.between) != (self.num_steps or 0) - 1):
            raise FieldError(
                f"between is {self.between}, expected one fewer times than num_steps, {self.num_steps}, of the method flow_map"
            )
        if list(self.between) != sorted(set(self.between)):
            raise FieldError(f"between is {self.between}, expected times that ascend")
        if self.corrections and self.method != "flow_map":
            raise FieldError(f"corrections is {self.corrections}, of jumps of the method flow_map: set it to 0")
        if self.num_steps is not None and self.max_steps < self.num_steps:
            raise FieldError(f"max_steps is {self.max_steps}, expected at least {self.num_steps}, the steps to be made")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerFields(Section):
    """How samples are drawn; all but the ODE are of paths from Gaussian noise, or with a latent."""

    name: Literal["ode", "euler_maruyama", "reverse_diffusion", "ancestral", "predictor_corrector", "ddim"] = field(
        "ode", "by config.solver, or by a sampler of its own"
    )
    num_steps: int = field(1000, "equal steps in t, of all but the ODE", least=1)
    noise: float = field(1.0, "for euler_maruyama: factor of the diffusion; 0: Euler's method for the ODE", least=0)
    schedule: Literal["path", "constant", "sigma", "gamma"] = field(
        "path", "shape of that diffusion along t: the reverse-time SDE's, constant, sigma(t), or the latent's gamma(t)"
    )
    variance: Variance = field("posterior", "variance of ancestral's steps; forward: DDPM's beta")
    corrector_steps: int = field(1, "Langevin steps after each of predictor_corrector's", least=0)
    snr: float = field(
        0.16,
        "signal-to-noise ratio that sets the size of Langevin steps; with them samples depend on the batch",
        above=0,
    )
    margin: float = field(1e-3, "distance kept from t = 0 and 1 where a score is not finite", least=0, below=0.5)
    denoise: bool = field(True, "end with the expected data; of the ODE where a grey level or more of noise is left")
