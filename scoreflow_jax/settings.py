"""Sections of a config that build nothing: the commands' own settings, field for field as configs/common.py explains them."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Config(Protocol):
    """A config as it comes from a file: ml_collections' ConfigDict, or a plain nested dict."""

    def __getitem__(self, name: str, /) -> Any:
        """A section or field."""
        ...

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        ...


MEMBERS = {
    "path": (
        "t_min", "t_max", "latent", "latent_scale", "beta_min", "beta_max", "sigma_min", "sigma_max", "num_scales", "beta_first",
        "beta_last", "num_terms",
    ),
    "objective": ("weight_exponent", "weight", "num_steps", "method", "path_rate"),
    "times": ("low_discrepancy", "mean", "std", "steepness", "count", "with_end"),
}  # fmt: skip
"""Sections whose `name` chooses one of several parts, and the fields that one or another of these takes. A field that is None, or
left out, has the part's own default; so have all that are not given where the command line gives the name of another part."""

FORMER_ENDS = {"variance_preserving": 0.999}
"""Paths whose default t_max is another one now, and what it was. A config of now always states theirs: one that is read without
is of a run that was trained to the former end, and keeps it."""

PROCESS_FLAGS = ("coordinator", "num_processes", "process_id")
"""Flags of the command line that name the processes of a run where no scheduler does."""


def with_end(config: Mapping[str, Any], ends: Mapping[str, float] = FORMER_ENDS) -> dict[str, Any]:
    """The config with `path.t_max` stated, where it is not and its path is one of those whose default end has changed.

    Args:
        config: plain.
        ends: t_max by the path's name.
    """
    path = config.get("path")
    if not isinstance(path, dict) or path.get("t_max") is not None or str(path.get("name")) not in ends:
        return dict(config)
    return {**config, "path": {**path, "t_max": ends[path["name"]]}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
    """`config.data`. None for `num_classes` and () for a table's `shape`: as the data are, `experiment.resolve` finds out.

    `units` stands in no config: with a run in hand, its table's columns, shift and scale (commands/points.py).
    """

    source: str
    name: str
    train_split: str
    test_split: str
    shape: tuple[int, ...]
    num_classes: int | None
    levels: int
    flip: bool
    path: str | None = None
    dequantize: bool = False
    framing: str = "crop"
    white_level: int | None = None
    test_share: float = 0.1
    strict: bool = False
    label: str | None = None
    classes: tuple[Any, ...] = ()  # whole numbers; data.open_source checks them
    sampling: str = "natural"
    columns: tuple[Any, ...] = ()
    parts: dict[str, Any] = dataclasses.field(default_factory=dict)
    base: dict[str, Any] = dataclasses.field(default_factory=dict)
    units: dict[str, Any] = dataclasses.field(default_factory=dict)
    pairs: str | None = None

    def __post_init__(self) -> None:
        """Refuses what would fail as soon as the data are opened, which may be before all else of a config is looked at."""
        if not 0 <= self.test_share < 1:
            raise ValueError(f"test_share is {self.test_share}, expected at least 0 and less than 1")
        if self.white_level is not None and not 1 <= self.white_level <= 65535:
            raise ValueError(f"white_level is {self.white_level}, expected 1 to 65535, such as 4095")
        wrong = next((name for name, part in self.parts.items() if not isinstance(part, Mapping)), None)
        if wrong is not None:
            raise ValueError(f"parts.{wrong} is {self.parts[wrong]!r}, expected a section of fields")
        if not isinstance(self.classes, tuple) or any(type(c) is not int for c in self.classes):
            raise ValueError(f"classes is {self.classes}, expected whole numbers, such as (3, 5)")

    def split_name(self, split: str) -> str:
        """What the data set calls the split that training ("train") or evaluation ("test") uses."""
        return {"train": self.train_split, "test": self.test_split}[split]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """`config.train`, without the schedule."""

    batch_size: int
    ema_decay: float
    keep_checkpoints: int
    num_workers: int
    tensorboard: bool
    microbatches: int = 1
    steps_per_call: int = 1
    fsdp: int = 1
    profile_steps: int = 0
    coupling: str = "independent"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """`config.sample`."""

    num_images: int
    labels: tuple[int, ...]
    batch_size: int
    seed: int
    columns: int
    guidance: float = 1.0
    likelihood: bool = False
    likelihood_probes: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslateSettings:
    """`config.translate`."""

    method: str
    source: int | None
    target: int | None
    num_images: int
    images: str | None
    batch_size: int
    shown: int
    num_times: int
    save_pictures: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class InterpolateSettings:
    """`config.interpolate`."""

    between: str
    rule: str
    num_pairs: int
    num_steps: int
    labels: tuple[int, ...]
    batch_size: int
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class FiguresSettings:
    """`config.figures`, which runs made before --mode=figures lack."""

    classes: tuple[int, ...] = ()
    num_images: int = 8
    num_times: int = 9
    num_pairs: int = 4
    num_steps: int = 9
    batch_size: int = 16
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """`config.eval`."""

    seeds: tuple[int, ...]
    batch_size: int
    split: str
    extractor: str
    resize: str
    inception_weights: str | None
    reference: str | None
    cache: str | None
    classifier: bool

    generation: bool
    num_images: int
    keep_images: bool

    reversibility: bool
    num_reconstructions: int
    reconstruction_tolerances: tuple[float, ...]

    translation: bool
    translation_pairs: tuple[Any, ...]  # what is in these four, experiment.py checks
    translation_images: int
    lpips_backbone: str | None
    lpips_heads: str | None

    likelihood: str | bool  # runs of before have True or False, by the ODE or not; afterwards it is a name
    likelihood_images: int
    likelihood_probe: str

    sweep: bool
    sweep_images: int
    sweep_methods: tuple[Any, ...]
    sweep_steps: tuple[Any, ...]
    sweep_tolerances: tuple[Any, ...]

    truncation: bool
    truncation_images: int
    truncation_times: int

    audit: bool
    audit_images: int

    likelihood_probes: int = 1

    first_images: int = 0
    labels: str = "reference"

    straightness: bool = False
    straightness_images: int = 200
    straightness_times: int = 21
    straightness_steps: tuple[Any, ...] = (1, 2, 4, 8)

    residual: bool = False
    residual_images: int = 200
    residual_noises: int = 4
    residual_times: int = 21

    density_calls: int = 256
    density_levels: str = "tabulated"

    density_cost: bool = False
    density_cost_images: int = 8
    density_cost_calls: tuple[Any, ...] = (16, 64, 256, 1024)

    density_classifier: bool = False
    density_classifier_images: int = 1000
    density_classifier_calls: int = 64

    outliers: bool = False
    outlier_images: int = 200
    outlier_calls: int = 64
    outlier_data: dict[str, Any] = dataclasses.field(default_factory=dict)

    score_difference: bool = False
    score_difference_images: int = 364
    score_difference_sigmas: tuple[Any, ...] = (0.1, 0.3, 1.0, 3.0)

    def __post_init__(self) -> None:
        """Reads what runs of before say."""
        if isinstance(self.likelihood, bool):
            object.__setattr__(self, "likelihood", "ode" if self.likelihood else "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudySettings:
    """`config.study`, of the configs that are studies."""

    seeds: tuple[int, ...] = (0, 1, 2)
    baseline: str = ""
    cells: dict[str, Any] = dataclasses.field(default_factory=dict)
    order: tuple[str, ...] = ()
    comparisons: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReflowSettings:
    """`config.reflow`, which runs made before --mode=reflow lack."""

    rounds: int = 2
    num_pairs: int = 1_000_000
    shard_size: int = 10_000
    batch_size: int = 500
    seed: int = 0
    num_steps: int = 300_000
    distill_steps: int = 0
    distance: str = "l2"
    lpips_backbone: str | None = None
    lpips_heads: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DifferenceSettings:
    """`config.difference`, which runs made before --mode=difference-flow lack."""

    scores: str = "kernel"
    against: str = "particles"
    source: int | None = None
    target: int | None = None
    other: str | None = None
    num_particles: int = 500
    num_data: int = 0
    num_steps: int = 200
    sigma_start: float = 1.0
    sigma_end: float = 0.3
    schedule: str = "geometric"
    step_rule: str = "bandwidth"
    step_size: float = 1.0
    jitter: bool = False
    exclude_self: bool = False
    kl_bandwidth: float = 0.3
    num_frames: int = 31
    seed: int = 0
    classifier_steps: int = 10
    classifier_warmup: int = 500
    classifier_batch: int = 256
    classifier_rate: float = 1e-3
    classifier_width: int = 256
