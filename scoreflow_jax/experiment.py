"""From a config to built objects. The only module that reads a config's sections.

Which fields there are, their types and ranges, `sections.SECTIONS` states; what is built of a section inherits its fields or
takes the section whole. Rules between sections are `Experiment.__post_init__`'s.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from scoreflow_jax import data, models, objectives, paths
from scoreflow_jax.data import DataSource, DataSpec, TrainedOn
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.evaluation.parts import PARTS
from scoreflow_jax.evaluation.settings import EvalSettings
from scoreflow_jax.models import Network
from scoreflow_jax.objectives import Objective
from scoreflow_jax.ode import Solver
from scoreflow_jax.paths import AffinePath, NetworkDrift, Parameterization, Path
from scoreflow_jax.paths.guidance import network_calls
from scoreflow_jax.pixels import Scaling
from scoreflow_jax.plain_config import ENDS, FORMER_ENDS, Config, config_hash, to_plain, with_end
from scoreflow_jax.sampling import Sampler
from scoreflow_jax.sections import FAMILIES, NEEDED, NEEDED_FIELDS, SECTIONS
from scoreflow_jax.settings.commands import (
    DifferenceSettings,
    FiguresSettings,
    InterpolateSettings,
    PublishSettings,
    ReflowSettings,
    SampleSettings,
    StudySettings,
    TranslateSettings,
)
from scoreflow_jax.settings.data import POINT_SOURCES, DataSettings
from scoreflow_jax.settings.fields import build_section, declared
from scoreflow_jax.settings.model import Conditioning
from scoreflow_jax.settings.solve import OF_DATA, preset_values
from scoreflow_jax.settings.train import Heads, OptimizerSettings, TrainSettings
from scoreflow_jax.training import (
    TIMES,
    TimeDistribution,
    TrainLoss,
    TrainState,
    initial_state,
    is_compensated,
    make_optimizer,
    make_train_step,
)
from scoreflow_jax.typing import PRNGKey, PyTree

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
        data, train, sample, translate, interpolate, figures, eval, reflow, difference, study, publish: the commands' own.
        trained_on: the data of the run in hand, which those that are opened must be; None: there is no run.
        teacher: the experiment of the run that the objective learns from; None: of none, or it is not opened.
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
    publish: PublishSettings
    trained_on: TrainedOn | None = None
    teacher: "Experiment | None" = None

    def __post_init__(self) -> None:
        """Refuses what cannot go together, before work begins.

        Raises:
            UserError: naming the field to change.
        """
        for name in ("objective", "parameterization", "sampler"):
            try:
                getattr(self, name).check_path(self.path)
            except ValueError as error:
                raise UserError(f"config.{name}: {error}") from error
        self._check_jumps()
        for name in ("sample", "interpolate", "figures", "translate", "difference"):
            self._check_classes(name)
        if self.eval.extractor == "inception" and self.spec.is_points:
            raise UserError(
                "config.eval.extractor is inception, but Inception takes images, not points of a table: set it to pixels"
            )

        for name in PARTS:
            part = getattr(self.eval, name)
            wrong = [c for c in part.classes if c >= self.spec.num_classes]
            if wrong and part.wanted:
                raise UserError(
                    f"config.eval.{name} names class {wrong[0]}, expected one from 0 to {self.spec.num_classes - 1}"
                )

    def guided_calls(self, weight: float) -> int:
        """Network calls of one evaluation in sampling with a weight of guidance, by the config's solver or sampler."""
        return network_calls(weight, self.solver.method if self.sampler.is_ode else None)

    @property
    def jumps(self) -> bool:
        """Whether the network learns a flow map: it is told two times, by an objective that asks for both."""
        return self.network.two_times and self.objective.two_times

    def _check_jumps(self) -> None:
        """Refuses flow maps that are none, or that could not be trained."""
        network, solver, objective = self.network, self.solver, self.objective
        if objective.two_times and not network.two_times:
            raise UserError(
                "config.objective.name is 'flow_map', whose network is told two times: set config.model.two_times=True"
            )
        if self.jumps and self.parameterization.predicts != "velocity":
            raise UserError(
                f"config.parameterization.predicts is {self.parameterization.predicts!r}, of which no velocity can be made at "
                "the ends, where a flow map's jumps begin: set it to 'velocity'"
            )
        if objective.differentiates_time and network.steep_in_time:
            raise UserError(
                "config.objective.rule is 'eulerian', which differentiates by t, but this network's embedding of t is too steep: "
                "set config.model.time_scale to 4 and embedding to 'positional', or the rule to 'lagrangian' or 'semigroup'"
            )
        if self.jumps and network.most_guidance and not (network.label_dropout or any(objective.teacher_run)):
            raise UserError(
                "config.model.most_guidance needs the drift without a label too: set config.model.label_dropout to 0.1, say, or "
                "take a config.objective.teacher that was trained so"
            )
        if solver.method == "flow_map" and not self.jumps:
            raise UserError(
                "config.solver.method is 'flow_map', but this network has learned no jumps: train one with config.objective.name "
                "'flow_map' (configs/flow_map.py), or take 'dopri5'"
            )
        of_levels = solver.method if solver.method in OF_DATA else solver.grid == "edm" and "the grid edm"
        if of_levels and (why := _without_levels(self.path)):
            raise UserError(
                f"config.solver asks for {of_levels}, which goes by noise levels, but {why}: take another method, 'heun', and "
                "the grid 'uniform' or 'measured'"
            )
        outside = [t for t in solver.between if not self.path.t_min < t < self.path.t_max]
        if outside:
            raise UserError(
                f"config.solver.between has {outside[0]:g}, expected times between the path's ends, {self.path.t_min:g} and "
                f"{self.path.t_max:g}"
            )

    def _check_classes(self, name: str) -> None:
        """Refuses classes that the data do not have, in the fields of a section that name some.

        Between two data sets `translate` means these by source and target: commands/translate_base.py checks them.
        """
        section = getattr(self, name)
        fields = {"labels", "classes", "source", "target"} & declared(type(section)).keys()
        for field in fields if not (self.data.base and name == "translate") else ():
            value = getattr(section, field)
            for label in value if isinstance(value, tuple) else (value,):
                if label is not None and label >= self.spec.num_classes:
                    raise UserError(
                        f"config.{name}.{field} has {label!r}, expected a class from 0 to {self.spec.num_classes - 1}"
                    )

    @property
    def num_classes(self) -> int:
        """Classes of the network: 0 for an unconditional one."""
        return self.spec.num_classes if self.conditional else 0

    @property
    def scaling(self) -> Scaling:
        """How its images and 8-bit pixels become each other."""
        return Scaling(self.spec.levels, self.data.dequantize)

    def split(self, name: str) -> DataSource:
        """Opens the data set's split, "train" or "test".

        Raises:
            UserError: it is not there, is not what the config describes, or not what the run in hand was trained on.
        """
        source = data.open_source(name, self.data)
        data.check_spec(source, self.spec, self.data.name, with_classes=self.conditional)
        if self.trained_on is not None:
            self.trained_on.check(source, files=name == "train")
        return source

    def training_source(self) -> DataSource:
        """What is trained on: the split "train", or pairs of reflow in its place.

        Raises:
            UserError: it is not there, or is not what the config describes.
        """
        return self.split("train") if self.data.pairs is None else data.Pairs(self.data.pairs, self.spec)

    @property
    def base_settings(self) -> DataSettings:
        """`config.data` with the fields of its `base`."""
        return data.changed(self.data, self.data.base, "data.base")

    def base_split(self, split: str) -> DataSource:
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
            most_guidance=self.network.most_guidance,
            teacher_of=None if self.teacher is None else self.teacher.drift,
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
            schedule=self.train,
        )

    def check_trainable(self, teacher: PyTree = None) -> None:
        """Traces one training step without computing anything.

        Args:
            teacher: parameters that the state carries for the loss; None: there are none.

        Raises:
            UserError: the network, the optimizer or the objective refuse the config or each other.
        """
        try:
            state = dataclasses.replace(jax.eval_shape(self.initial_state), teacher=teacher)
            jax.eval_shape(self.train_step(), state, self.batch_shapes())
        except (TypeError, ValueError) as error:
            raise UserError(f"this config cannot be trained: {first_line(error, 400)}") from error

    def batch_shapes(self, sharding: Any = None) -> PyTree:
        """Shapes of a training batch of all processes."""
        n = self.train.batch_size
        pairs = self.data.pairs is not None
        dtype = jnp.float32 if self.spec.is_points or pairs else jnp.uint8
        images = jax.ShapeDtypeStruct((n, *self.spec.shape), dtype, sharding=sharding)
        labels = jax.ShapeDtypeStruct((n,), jnp.int32, sharding=sharding)
        return {"image": images, "label": labels, **({"base": images} if self.data.base or pairs else {})}

    def with_network(self, network: Network) -> "Experiment":
        """The same with another network, or one that computes otherwise."""
        return dataclasses.replace(self, network=network)

    def drift(self, params: PyTree, dtype: str = "float32") -> NetworkDrift:
        """f(x, t, c) for solves, and what else the network says: without dropout.

        Args:
            params: the network's, and the path's where it has any.
            dtype: to compute in, whatever the network was trained in: rounding in the drift costs an adaptive solver steps.
        """
        path = self.path
        if path.num_parameters:
            path = path.with_parameters(params[PATH_PARAMETERS])
        network = models.make_drift(models.computing_in(dtype, self.network), _network_parameters(params))
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
        spec = data.open_source("train", build_section(DataSettings, "data", section)).spec
        section.update({name: getattr(spec, name) for name in asked})
    if model.get("conditional", False) is None:
        model["conditional"] = section.get("num_classes", 0) > 1
    return {**plain, **{k: v for k, v in (("data", section), ("model", model)) if k in plain}}


def _whole_shape(shape: Any, source: Any) -> Any:
    """Completes the shape of images: 64 or (64,) is (64, 64, 3), and (64, 48) is (64, 48, 3)."""
    numbers = (shape,) if type(shape) is int else shape
    if source in POINT_SOURCES or not isinstance(numbers, tuple) or len(numbers) not in (1, 2):
        return numbers
    return (numbers[0], numbers[-1], 3)


def build(config: Config) -> Experiment:
    """Builds an experiment from a ConfigDict or plain nested dict, of any version.

    Raises:
        UserError: a field is missing, unknown or has a value that its part does not accept.
    """
    plain = with_end(to_plain(config), ENDS)
    if missing := [name for name in ("name", "seed", *NEEDED) if name not in plain]:
        raise UserError(f"the config has no {missing[0]!r}, expected name, seed, {', '.join(SECTIONS)}")
    if unknown := plain.keys() - {"name", "seed", *SECTIONS}:
        raise UserError(f"unknown config section {sorted(unknown)[0]!r}")
    heads = build_section(Heads, "", {name: plain[name] for name in ("name", "seed")})
    built: dict[str, Any] = {}
    for name in SECTIONS:
        values = plain.get(name, {})
        if not isinstance(values, dict):
            raise UserError(f"config.{name} is {values!r}, expected a section")
        if gone := [field for field in NEEDED_FIELDS.get(name, ()) if field not in values]:
            raise UserError(f"config.{name} has no field {gone[0]!r}, which it needs")
        built[name] = _BUILT[name](dict(values), built)
    conditioning, network = built.pop("model")
    return Experiment(
        name=heads.name,
        seed=heads.seed,
        config=plain,
        config_hash=config_hash(plain),
        spec=_spec(built["data"]),
        conditional=conditioning,
        network=network,
        **built,
    )


def _without_levels(path: Path) -> str:
    """Why a path has no noise levels to step by; empty where it has them."""
    if not isinstance(path, AffinePath):
        return "this path has none"
    if path.num_parameters:
        return "those of a learned path are no numbers yet"
    return "" if path.gaussian_source or not path.has_latent else "between two data sets with a latent there are none"


def _plain_section(name: str, owner: type) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
    return lambda values, _: build_section(owner, name, values)


def _member(name: str, members: Mapping[str, Any], values: dict[str, Any], **built: Any) -> Any:
    """Builds the member of a family that a section names, from its other fields and from parts already built."""
    member = values.pop("name", FAMILIES[name].default)
    if not isinstance(member, str) or member not in members:
        raise UserError(f"config.{name}.name is {member!r}, expected one of {', '.join(members)}")
    return build_section(members[member], name, values, **built)


def _data(values: dict[str, Any], _: dict[str, Any]) -> DataSettings:
    settings = build_section(DataSettings, "data", values)
    data.check_settings(settings)
    return settings


def _spec(settings: DataSettings) -> DataSpec:
    return DataSpec(shape=settings.shape, num_classes=settings.num_classes, levels=settings.levels)  # type: ignore[arg-type]


def _path(values: dict[str, Any], built: dict[str, Any]) -> Path:
    return _member("path", paths.PATHS, values, gaussian_source=not built["data"].base)


def _objective(values: dict[str, Any], built: dict[str, Any]) -> Objective:
    objective = _member("objective", objectives.OBJECTIVES, values, path=built["path"])
    try:
        objective.check_shape(built["data"].shape)
    except ValueError as error:
        raise UserError(f"config.objective: {error}") from error
    return objective


def _model(values: dict[str, Any], built: dict[str, Any]) -> tuple[bool, Network]:
    """Whether the drift takes labels, and the network."""
    shared = {name: values.pop(name) for name in declared(Conditioning) if name in values}
    conditional, classes = build_section(Conditioning, "model", shared).conditional, built["data"].num_classes
    if conditional is None:
        raise UserError(
            "config.model.conditional is None: give True or False, or let experiment.resolve look at the data"
        )
    if conditional and classes < 1:
        raise UserError("config.model.conditional is True, but config.data.num_classes is 0: set it to False")
    outputs = 1 + built["path"].has_latent
    network = _member("model", models.MODELS, values, num_classes=classes if conditional else 0, outputs=outputs)
    try:
        network.check_shape(built["data"].shape)
    except ValueError as error:
        raise UserError(f"config.model: {error}") from error
    return conditional, network


def _optimizer(values: dict[str, Any], built: dict[str, Any]) -> optax.GradientTransformation:
    settings = build_section(OptimizerSettings, "optimizer", values)
    return built["objective"].adapt_optimizer(make_optimizer(settings), PATH_PARAMETERS)


_BUILT: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    **{name: _plain_section(name, owner) for name, owner in SECTIONS.items() if isinstance(owner, type)},
    "data": _data,
    "path": _path,
    "parameterization": _plain_section("parameterization", Parameterization),
    "objective": _objective,
    "times": lambda values, _: _member("times", TIMES, values),
    "model": _model,
    "optimizer": _optimizer,
    "solver": lambda values, _: build_section(Solver, "solver", preset_values(values)),
    "sampler": _plain_section("sampler", Sampler),
}
"""How each section is built, from its values and from what was built before it, in the order of `SECTIONS`."""
