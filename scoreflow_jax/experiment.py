"""From a config to built objects. The only module that reads config fields.

A section's fields are the arguments of what it builds, so the constructors are the schema: a field that they do not take is
refused by name, and so is a value that they do not accept.
"""

import copy
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from scoreflow_jax import data, models, objectives, paths
from scoreflow_jax.checks import POINTS, check, check_data
from scoreflow_jax.data import DataSource, DataSpec, TrainedOn
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.field_types import checked
from scoreflow_jax.models import Network
from scoreflow_jax.models.lpips import SMALLEST
from scoreflow_jax.objectives import Objective
from scoreflow_jax.ode import Solver
from scoreflow_jax.paths import NetworkDrift, Parameterization, Path
from scoreflow_jax.perceptual import Lpips
from scoreflow_jax.pixels import Scaling
from scoreflow_jax.sampling import Sampler
from scoreflow_jax.settings import (
    FORMER_ENDS,
    MEMBERS,
    Config,
    DataSettings,
    DifferenceSettings,
    EvalSettings,
    FiguresSettings,
    InterpolateSettings,
    ReflowSettings,
    SampleSettings,
    StudySettings,
    TrainSettings,
    TranslateSettings,
    with_end,
)
from scoreflow_jax.training import (
    TIMES,
    Schedule,
    TimeDistribution,
    TrainLoss,
    TrainState,
    initial_state,
    is_compensated,
    make_optimizer,
    make_train_step,
    scale_update,
)
from scoreflow_jax.typing import PRNGKey, PyTree

TRAINING_FIELDS = (
    "seed", "data", "path", "parameterization", "objective", "times", "model", "optimizer", "train.batch_size",
    "train.ema_decay", "train.coupling",
)  # fmt: skip
"""Fields that a resumed run must share with the run it goes on with, but for `FREE`."""

FREE = ("data.path", "data.strict", "data.pairs")
"""Fields that may always differ: where the data are is not what they are (commands/workdir.py looks at that)."""

MODEL_FIELDS = ("data.shape", "data.num_classes", "data.dequantize", "path", "parameterization", "model")
"""Fields that sampling and evaluation must share with the run whose checkpoint they read, but for `TRAINING_ONLY`."""

DATA_TRAINING_ONLY = ("data.flip", "data.sampling", "data.on_pairs")
"""Fields of the data that do not change which examples there are, which of them are held out, or their pixels: what uses the run
must share all others with it, but for `FREE`."""

TRAINING_ONLY = ("model.dropout", "model.dtype", "model.remat_resolutions")
"""Fields of the network that change nothing but its training."""

PATH_PARAMETERS = "path"
"""Where a learned path's numbers stand among the parameters."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything a command needs, built from one config.

    Attributes:
        name: of the config; the default workdir is runs/<name>.
        seed: of the run.
        config: the config as plain data, and `config_hash`, the first 12 digits of the sha256 of its canonical JSON.
        spec: shape, classes and levels of the data.
        conditional: whether the drift takes labels.
        path, parameterization, objective, times, network, optimizer, solver, sampler: the parts.
        schedule, data, train, sample, translate, interpolate, figures, eval, reflow, difference, study: the commands' own
            settings.
        trained_on: the data of the run in hand, which those that are opened must be; None: there is no run.
    """

    name: str
    seed: int
    config: dict[str, Any]
    config_hash: str
    spec: DataSpec
    conditional: bool
    path: Path
    parameterization: Parameterization
    objective: Objective
    times: TimeDistribution
    network: Network
    optimizer: optax.GradientTransformation
    solver: Solver
    sampler: Sampler
    schedule: Schedule
    data: DataSettings
    train: TrainSettings
    sample: SampleSettings
    translate: TranslateSettings
    interpolate: InterpolateSettings
    figures: FiguresSettings
    eval: EvalSettings
    reflow: ReflowSettings
    difference: DifferenceSettings
    study: StudySettings
    trained_on: TrainedOn | None = None

    @property
    def num_classes(self) -> int:
        """Classes of the network: 0 for an unconditional one."""
        return self.spec.num_classes if self.conditional else 0

    @property
    def scaling(self) -> Scaling:
        """How its images and 8-bit pixels become each other."""
        return Scaling(self.spec.levels, self.data.dequantize)

    def source(self, split: str) -> DataSource:
        """Opens the data set's split, "train" or "test".

        Raises:
            UserError: it is not there, is not what the config describes, or not what the run in hand was trained on.
        """
        source = data.open_source(split, self.data)
        data.check_spec(source, self.spec, self.data.name, with_classes=self.conditional)
        if self.trained_on is not None:
            self.trained_on.check(source, files=split == "train")
        return source

    def training_source(self) -> DataSource:
        """What is trained on: the split "train", or pairs of reflow in its place.

        Raises:
            UserError: it is not there, or is not what the config describes.
        """
        return self.source("train") if self.data.pairs is None else data.Pairs(self.data.pairs, self.spec)

    @property
    def base_settings(self) -> DataSettings:
        """`config.data` with the fields of its `base`."""
        return data.changed(self.data, self.data.base, "base")

    def base_source(self, split: str) -> DataSource:
        """Opens the split of the data that stand at t = 0 in place of noise: `config.data` with the fields of its `base`.

        Raises:
            UserError: they are not there, of another shape than the data at t = 1, or not what the run in hand was trained on.
        """
        settings, known = self.base_settings, self.trained_on.facts.get("base", {}) if self.trained_on else {}
        if (
            settings.source == "table" and "scale" in known
        ):  # a table that has grown has another mean: see commands/workdir.py
            settings = dataclasses.replace(
                settings, units={name: known[name] for name in ("columns", "shift", "scale")}
            )
        source = data.open_source(split, settings)
        if (source.spec.shape, source.spec.levels) != (self.spec.shape, self.spec.levels):
            raise UserError(
                f"config.data.base has {source.spec}, expected the shape and levels of the data at t = 1, {self.spec}"
            )
        if self.trained_on is not None:
            self.trained_on.check_base(source)
        return source

    def init(self, key: PRNGKey) -> PyTree:
        """Fresh parameters: the network's, and the path's where it is learned."""
        params = models.init_parameters(self.network, key, self.spec.shape)
        if self.path.num_parameters:
            params = {**params, PATH_PARAMETERS: jnp.zeros((self.path.num_parameters,))}
        return params

    def parameter_shapes(self) -> PyTree:
        """Shapes of the parameters, without computing them."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def initial_state(self) -> TrainState:
        """The training state of step 0, not yet compiled."""
        compensated = is_compensated(self.train.ema_decay)
        return initial_state(self.init, self.optimizer, self.seed, compensated=compensated)

    def train_loss(self) -> TrainLoss:
        """The training loss."""
        return TrainLoss(
            drift_of=self._training_drift,
            objective=self.objective,
            path=self.path,
            levels=self.spec.levels,
            conditional=self.conditional,
            flip=self.data.flip,
            dequantize=self.data.dequantize,
            times=self.times,
            coupling=self.train.coupling,
        )

    def _training_drift(self, params: PyTree, dropout_key: PRNGKey) -> NetworkDrift:
        """The drift being trained; a learned path gets the gradient that its objective wants it to have."""
        path = self.path
        if path.num_parameters:
            path = path.with_parameters(objectives.turned(params[PATH_PARAMETERS]))
        network = models.make_drift(self.network, _network_parameters(params), dropout_key=dropout_key)
        return NetworkDrift(network, path, self.parameterization)

    def train_step(
        self, *, on_cpu: bool | None = None
    ) -> Callable[[TrainState, PyTree], tuple[TrainState, dict[str, Any]]]:
        """The training step, not yet compiled.

        Args:
            on_cpu: whether it is made for CPUs, by default as JAX's devices are: microbatches are then no loop of the device.
        """
        return make_train_step(
            self.train_loss(),
            optimizer=self.optimizer,
            ema_decay=self.train.ema_decay,
            microbatches=self.train.microbatches,
            unrolled=jax.default_backend() == "cpu" if on_cpu is None else on_cpu,
        )

    def check_trainable(self) -> None:
        """Traces one training step without computing anything.

        Raises:
            UserError: the network, the optimizer or the objective refuse the config or each other.
        """
        try:
            jax.eval_shape(self.train_step(), jax.eval_shape(self.initial_state), self.batch_shapes())
        except (TypeError, ValueError) as error:
            raise UserError(f"this config cannot be trained: {first_line(error, 400)}") from error

    def batch_shapes(self, sharding: Any = None) -> PyTree:
        """Shapes of a training batch of all processes."""
        n = self.train.batch_size
        pairs = self.data.pairs is not None
        dtype = jnp.uint8 if self.spec.levels and not pairs else jnp.float32
        images = jax.ShapeDtypeStruct((n, *self.spec.shape), dtype, sharding=sharding)
        labels = jax.ShapeDtypeStruct((n,), jnp.int32, sharding=sharding)
        return {"image": images, "label": labels, **({"base": images} if self.data.base or pairs else {})}

    def with_network(self, network: Network) -> "Experiment":
        """The same with another network, or one that computes otherwise."""
        return dataclasses.replace(self, network=network)

    def drift(self, params: PyTree) -> NetworkDrift:
        """f(x, t, c) for solves, and what else the network says: without dropout, in float32."""
        path = self.path
        if path.num_parameters:
            path = path.with_parameters(params[PATH_PARAMETERS])
        network = models.make_drift(models.float32_compute(self.network), _network_parameters(params))
        return NetworkDrift(network, path, self.parameterization)


def _network_parameters(params: PyTree) -> PyTree:
    return {name: value for name, value in params.items() if name != PATH_PARAMETERS}


def resolve(
    config: Config, trained: Mapping[str, Any] | None = None, *, run: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The config as plain data, with what it leaves to the data filled in: shape and classes, and whether to use these.

    Args:
        config: in which `data.num_classes` and `model.conditional` may be None, and `data.shape` may be ().
        trained: the config of the run in hand, which knows them; None: the data are opened.
        run: the config of the run that is gone on with, which knows where its path ends.

    Raises:
        UserError: the data cannot be opened.
    """
    plain = to_plain(config)
    if run is not None and "t_max" in (path := to_plain(run).get("path", {})):
        plain = with_end(plain, {path["name"]: path["t_max"]} if path["name"] in FORMER_ENDS else {})
    section, model = dict(plain.get("data", {})), dict(plain.get("model", {}))
    if "shape" in section:
        section["shape"] = _whole_shape(section["shape"], section.get("source"))
    asked = [name for name, unknown in (("num_classes", None), ("shape", ())) if section.get(name, 0) == unknown]
    if asked and trained is not None:
        section.update({name: to_plain(trained["data"])[name] for name in asked})
    elif asked:
        spec = data.open_source("train", _section(DataSettings, "data", section)).spec
        section.update({name: getattr(spec, name) for name in asked})
    if model.get("conditional", False) is None:
        model["conditional"] = section.get("num_classes", 0) > 1
    return {**plain, **{k: v for k, v in (("data", section), ("model", model)) if k in plain}}


def _whole_shape(shape: Any, source: Any) -> Any:
    """Of images 64 or (64,) is (64, 64, 3), and (64, 48) is (64, 48, 3)."""
    numbers = (shape,) if type(shape) is int else shape
    if source in POINTS or not isinstance(numbers, tuple) or len(numbers) not in (1, 2):
        return numbers
    return (numbers[0], numbers[-1], 3)


_ENDS = {name: paths.PATHS[name].t_max for name in FORMER_ENDS}

_SECTIONS = (
    "name", "seed", "data", "path", "parameterization", "objective", "times", "model", "optimizer", "train", "solver",
    "sampler", "sample", "translate", "interpolate", "figures", "eval", "reflow", "difference",
    "study",
)  # fmt: skip

_LATER = ("figures", "parameterization", "times", "sampler", "reflow", "difference", "study")
"""Sections that the configs of older runs lack; their settings have defaults."""


def build(config: Config) -> Experiment:
    """Builds an experiment from a ConfigDict or plain nested dict.

    Raises:
        UserError: a field is missing, unknown or has a value that its part does not accept.
    """
    plain = with_end(to_plain(config), _ENDS)
    missing = [name for name in _SECTIONS if name not in plain and name not in _LATER]
    if missing:
        raise UserError(f"the config has no {missing[0]!r}, expected {', '.join(_SECTIONS)}")
    sections: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in plain.items()}
    unknown = sections.keys() - set(_SECTIONS)
    if unknown:
        raise UserError(f"unknown config section {sorted(unknown)[0]!r}")
    checked(_heads, "", {name: sections[name] for name in ("name", "seed")})
    for name, section in sections.items():
        if name not in ("name", "seed") and not isinstance(section, dict):
            raise UserError(f"config.{name} is {section!r}, expected a section")
    settings = _section(DataSettings, "data", sections["data"])
    check_data(settings)
    spec = DataSpec(shape=settings.shape, num_classes=settings.num_classes, levels=settings.levels)  # type: ignore[arg-type]
    conditional = _pop(sections["model"], "model", "conditional")
    checked(_conditional, "model", {"conditional": conditional})
    path = _member(paths.PATHS, "path", sections["path"], gaussian_source=not settings.base)
    objective = _objective(sections["objective"], path, spec)
    schedule_names = {f.name for f in dataclasses.fields(Schedule)}
    schedule = _section(Schedule, "train", {k: v for k, v in sections["train"].items() if k in schedule_names})
    rest = {k: v for k, v in sections["train"].items() if k not in schedule_names}
    experiment = Experiment(
        name=sections["name"],
        seed=sections["seed"],
        config=plain,
        config_hash=config_hash(plain),
        spec=spec,
        conditional=conditional,
        path=path,
        parameterization=_section(Parameterization, "parameterization", sections.get("parameterization", {})),
        objective=objective,
        times=_member(TIMES, "times", sections.get("times", {"name": "uniform"})),
        network=_network(sections["model"], spec, conditional, outputs=1 + path.has_latent),
        optimizer=_optimizer(sections["optimizer"], path, objective, schedule),
        solver=_section(Solver, "solver", sections["solver"]),
        sampler=_section(Sampler, "sampler", sections.get("sampler", {})),
        schedule=schedule,
        data=settings,
        train=_section(TrainSettings, "train", rest),
        sample=_section(SampleSettings, "sample", sections["sample"]),
        translate=_section(TranslateSettings, "translate", sections["translate"]),
        interpolate=_section(InterpolateSettings, "interpolate", sections["interpolate"]),
        figures=_section(FiguresSettings, "figures", sections.get("figures", {})),
        eval=_section(EvalSettings, "eval", sections["eval"]),
        reflow=_section(ReflowSettings, "reflow", sections.get("reflow", {})),
        difference=_section(DifferenceSettings, "difference", sections.get("difference", {})),
        study=_section(StudySettings, "study", sections.get("study", {})),
    )
    check(experiment)
    return experiment


def _heads(name: str, seed: int) -> None:
    """What a config has besides sections, for its types."""


def _conditional(conditional: bool) -> None:
    """The field of config.model that is no field of a network."""


def to_plain(config: Config) -> dict[str, Any]:
    """The config as nested dicts of plain values, lists as tuples: JSON has no tuples, and hashes must agree.

    NumPy's numbers become Python's. Fields of `settings.MEMBERS` that are None are left out: they say nothing.
    """
    to_dict = getattr(config, "to_dict", None)  # a ConfigDict's, whose package may be missing
    as_dict = copy.deepcopy({name: config[name] for name in config}) if to_dict is None else to_dict()

    def tidy(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: tidy(v) for k, v in value.items()}
        if isinstance(value, np.generic):  # as a Python config may compute it
            return value.item()
        return tuple(tidy(v) for v in value) if isinstance(value, (list, tuple)) else value

    plain = tidy(as_dict)
    chosen = {name: plain[name] for name in MEMBERS if isinstance(plain.get(name), dict)}
    return plain | {name: {k: v for k, v in section.items() if v is not None} for name, section in chosen.items()}


def config_hash(plain: dict[str, Any]) -> str:
    """The first 12 hexadecimal digits of the sha256 of the canonical JSON."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(
    ours: dict[str, Any], theirs: dict[str, Any], fields: tuple[str, ...], free: tuple[str, ...] = ()
) -> list[str]:
    """Names and both values of the given fields, or of all below a section, that differ between two plain configs.

    Args:
        ours, theirs: the configs.
        fields: names of fields and sections.
        free: names among them that may differ, besides `FREE`.
    """
    mine, other = _with_defaults(ours), _with_defaults(theirs)
    for flat in (mine, other):  # where pairs are is free, whether there are any is not
        flat["data.on_pairs"] = flat.get("data.pairs") is not None
    covered = lambda name: any(name == f or name.startswith(f + ".") for f in fields)  # noqa: E731
    return [
        f"{name} is {mine.get(name)!r}, was {other.get(name)!r}"
        for name in sorted(mine.keys() | other.keys())
        if covered(name) and not _is_free(name, free) and mine.get(name) != other.get(name)
    ]


def _is_free(name: str, free: tuple[str, ...]) -> bool:
    """Also where parts and base of the data have a path of their own."""
    return name in (*FREE, *free) or (name.startswith(("data.parts.", "data.base.")) and name.endswith(".path"))


def _with_defaults(plain: dict[str, Any]) -> dict[str, Any]:
    """Dotted names to values, with the defaults of a path's and a network's fields that an older config does not know."""
    defaults = {f"data.{f.name}": f.default for f in dataclasses.fields(DataSettings)}
    flat = {k: v for k, v in defaults.items() if v is not dataclasses.MISSING}
    flat.update(flatten(plain))
    flat.setdefault("times.name", "uniform")
    flat.setdefault("train.coupling", TrainSettings.coupling)
    members: dict[str, Any] = {"parameterization": Parameterization}
    for section, table in (
        ("path", paths.PATHS),
        ("objective", objectives.OBJECTIVES),
        ("times", TIMES),
        ("model", models.MODELS),
    ):
        members[section] = table.get(str(flat.get(f"{section}.name", "")))
    for section, member in members.items():
        for field in dataclasses.fields(member) if member is not None else ():
            if field.default is not dataclasses.MISSING:
                flat.setdefault(f"{section}.{field.name}", field.default)
    return flat


def flatten(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names to values."""
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _section(constructor: Callable[..., Any], name: str, fields: dict[str, Any]) -> Any:
    """Calls a constructor with a section's fields, turning what it refuses into one line."""
    fields = checked(constructor, name, fields)
    try:
        return constructor(**fields)
    except (TypeError, ValueError) as error:
        raise UserError(f"config.{name}: {error}") from error


def _member(table: Mapping[str, Any], name: str, fields: dict[str, Any], **built: Any) -> Any:
    """Builds the member of a family that a section names, from its other fields and from parts already built."""
    rest = dict(fields)
    member = _pop(rest, name, "name")
    if not isinstance(member, str) or member not in table:
        raise UserError(_unknown_name(f"{name}.name", member, table))
    return _section(table[member], name, {**rest, **built})


def _pop(section: dict[str, Any], name: str, field: str) -> Any:
    """Takes a field out of a section.

    Raises:
        UserError: it is not there.
    """
    if field not in section:
        raise UserError(f"config.{name} has no field {field!r}, which it needs")
    return section.pop(field)


def _unknown_name(field: str, got: Any, table: Mapping[str, Any]) -> str:
    return f"config.{field} is {got!r}, expected one of {', '.join(table)}"


def _objective(section: dict[str, Any], path: Path, spec: DataSpec) -> Objective:
    """Builds the objective; LPIPS's weights are read when it is first computed: to sample takes none."""
    if section.get("distance") == "lpips" and (len(spec.shape) < 3 or min(spec.shape[:2]) < SMALLEST):
        raise UserError(f"config.objective.distance is 'lpips', of images of {SMALLEST}x{SMALLEST} at least: take 'l2'")
    fields = dict(section)
    if fields.get("name") == "distillation":
        weights = [fields.pop(name, None) for name in ("lpips_backbone", "lpips_heads")]
        if None not in weights:
            fields["lpips"] = Lpips(*weights)
    return _member(objectives.OBJECTIVES, "objective", fields, path=path)


def _optimizer(
    section: dict[str, Any], path: Path, objective: Objective, schedule: Schedule
) -> optax.GradientTransformation:
    """Builds the optimizer; a learned path moves at a rate of its own."""
    cooldown = (schedule.num_steps, schedule.cooldown_steps)
    optimizer = _section(functools.partial(make_optimizer, cooldown), "optimizer", section)
    if path.num_parameters and isinstance(objective, objectives.Interpolant):
        return scale_update(optimizer, PATH_PARAMETERS, objective.path_rate)
    return optimizer


def _network(section: dict[str, Any], spec: DataSpec, conditional: bool, outputs: int) -> Network:
    """Builds the network and checks that it can halve the images."""
    dtypes = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    dtype = _pop(section, "model", "dtype")
    if not isinstance(dtype, str) or dtype not in dtypes:
        raise UserError(_unknown_name("model.dtype", dtype, dtypes))
    if conditional and spec.num_classes < 1:
        raise UserError("config.model.conditional is True, but config.data.num_classes is 0: set it to False")
    fields = {**section, "dtype": dtypes[dtype], "outputs": outputs}
    network = _member(models.MODELS, "model", fields, num_classes=spec.num_classes if conditional else 0)
    try:
        network.check_shape(spec.shape)
    except ValueError as error:
        raise UserError(f"config.model: {error}") from error
    return network
