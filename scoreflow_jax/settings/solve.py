"""Fields of `config.solver` and `config.sampler`. What they configure: scoreflow_jax/ode.py and sampling/stochastic.py."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Literal

from scoreflow_jax.settings.fields import FieldError, Section, defaults, field

Variance = Literal["posterior", "forward"]
"""The variance of an ancestral step: given the data (SMLD's, and DDPM's lower bound), or DDPM's beta, its upper bound."""

Method = Literal[
    "euler",
    "heun",
    "midpoint",
    "bosh3",
    "dopri5",
    "tsit5",
    "dopri8",
    "ab2",
    "ab3",
    "dpmpp_2m",
    "unipc2",
    "unipc3",
    "flow_map",
]
OF_DATA = ("dpmpp_2m", "unipc2", "unipc3")
"""Methods of several steps that extrapolate the data that the drift expects, and so solve its own ODE only."""

MULTISTEP = ("ab2", "ab3", *OF_DATA)
"""Methods that remember the calls of the steps before: one call a step."""

WITHOUT_ESTIMATE = ("euler", *MULTISTEP, "flow_map")
"""Methods that cannot choose their steps, since nothing tells their error."""

OF_ONE_DRIFT = (*OF_DATA, "flow_map")
"""Methods that follow the ODE of one drift, not any field: no translation by difference, no likelihood."""

Grid = Literal["uniform", "edm", "measured"]

Preset = Literal["fast"]
PRESETS: Mapping[Any, dict[str, Any]] = {"fast": {"method": "unipc2", "grid": "edm", "num_steps": 20}}
"""Fields by the name of what `config.solver.preset` makes of them where they are at their defaults."""


def of_preset(name: Any) -> dict[str, Any]:
    """The fields that a preset stands for; none where there is no such preset, which is refused where the section is built."""
    return PRESETS.get(name, {}) if isinstance(name, str) else {}


def preset_values(values: Mapping[str, Any], given: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a solver with those of its preset, which take the place of defaults; stated ones win.

    Args:
        values: of `config.solver`, with or without a preset.
        given: names of fields that are stated even where they are defaults.

    Returns:
        The fields, with the preset's name only where all of it holds.
    """
    of, known = of_preset(values.get("preset")), defaults(SolverFields)
    taken = {n: v for n, v in of.items() if n not in given and values.get(n, known[n]) == known[n]}
    found = {**values, **taken}
    return found if all(found[n] == v for n, v in of.items()) else {**found, "preset": None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SolverFields(Section):
    """How ODEs are solved: the paper's RK45 at 1e-5."""

    method: Method = field(
        "dopri5",
        "a Runge-Kutta method; one of several steps, ab2, ab3, dpmpp_2m, unipc2 or unipc3, with one network call a step; or "
        "flow_map, by a network that is told two times. Euler, those of several steps and flow_map take num_steps",
    )
    rtol: float = field(1e-5, "relative tolerance of adaptive steps", above=0)
    atol: float = field(1e-5, "absolute tolerance of adaptive steps", above=0)
    num_steps: int | None = field(None, "this many steps of config.solver.grid instead of adaptive ones", least=1)
    per_sample: bool = field(False, "step sizes chosen for each image instead of for the batch")
    max_steps: int = field(4096, "steps, rejected ones included, after which a solve fails", least=1)
    precision: str = field(
        "highest", "precision of matrix products: on GPU and TPU the default for float32 is not float32", added=True
    )
    dtype: Literal["float32", "bfloat16"] = field(
        "float32",
        "type that the network computes in while an ODE is solved; bfloat16, for accelerators and processors that have it, goes "
        "with num_steps",
        added=True,
    )
    between: tuple[float, ...] = field(
        (),
        "times at which num_steps steps meet, one fewer than these; none: those of grid",
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
    grid: Grid = field(
        "uniform",
        "where num_steps steps meet: equal steps; edm: at EDM's noise levels; measured: steps of equal local error, found by one "
        "adaptive solve and kept with the run",
        added=True,
    )
    preset: Preset | None = field(
        None,
        "method, grid and num_steps by one name, for fields that are at their defaults; fast: 20 network calls, which came "
        "within a grey level of the exact photographs (docs/results.md)",
        added=True,
    )

    def __post_init__(self) -> None:
        """Refuses methods without an error estimate that are given no steps, and more steps than may be made."""
        super().__post_init__()
        if self.num_steps is None and self.method in WITHOUT_ESTIMATE:
            example = {"euler": 100, "flow_map": 4}.get(self.method, 20)
            raise ValueError(
                f"{self.method} has no error estimate to choose its steps by: give num_steps, for example {example}"
            )
        if self.per_sample and self.method in ("flow_map", *MULTISTEP):
            raise FieldError(f"per_sample is True, but {self.method} controls no error: set it to False")
        if self.dtype == "bfloat16" and self.num_steps is None:
            raise FieldError(
                "dtype is bfloat16, whose rounding adaptive steps would take for error and follow: give num_steps, or preset"
            )
        if self.between and len(self.between) != (self.num_steps or 0) - 1:
            raise FieldError(f"between is {self.between}, expected one fewer times than num_steps, {self.num_steps}")
        if self.grid != "uniform" and self.num_steps is None:
            raise FieldError(f"grid is {self.grid!r}, of num_steps steps: give num_steps, or leave it 'uniform'")
        if self.grid != "uniform" and self.between:
            raise FieldError(f"grid is {self.grid!r}, but between states the times: give one of them")
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
