"""A trained model in the hand: what `scoreflow_jax.load` returns, and what the commands work with.

import jax, scoreflow_jax
model = scoreflow_jax.load("runs/digits")
images = model.generate(jax.random.key(0), labels=[3, 3, 7])
latents = model.encode(images, [3, 3, 7])
sevens = model.translate(images, source=3, target=7)
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from scoreflow_jax import processes, sampling, sums
from scoreflow_jax.compiled import CompiledPrograms
from scoreflow_jax.data import DataSource
from scoreflow_jax.density_formula import DensityFormula, Reference
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.grids import PARTS, equal_parts
from scoreflow_jax.model_inputs import LabelsLike, as_data, as_labels, as_states, count_of
from scoreflow_jax.ode import Solver
from scoreflow_jax.parallel import Layout, one_device
from scoreflow_jax.programs import (
    Encode,
    FormulaDensity,
    Generate,
    How,
    LocalErrors,
    LogLikelihood,
    Program,
    Sample,
    Translate,
)
from scoreflow_jax.published import is_published
from scoreflow_jax.randomness import KeyLike, as_key, key_of
from scoreflow_jax.sampling import Sampler, Solved
from scoreflow_jax.typing import HostState, PyTree

KEPT_GRID = "solver_grid.json"
"""Where a run keeps what `Model.parts` has measured."""

_GRID_IMAGES, _GRID_TOLERANCE, _GRID_STEPS = 64, 1e-3, 512


class Model:
    """A drift with its solver: generates, encodes, translates and interpolates.

    Images go in and come out as float32 in [-1, 1], shape (batch, height, width, channel); `scoreflow_jax.to_pixels` makes
    8-bit ones of them, and 8-bit ones (uint8) go in as well and are scaled. Points of a table go in and out as float32
    (batch, dimension), standardized: `data.Units` goes to the table's own units by shift and scale in the run's data.json. Keys
    may be seeds, such as 0. Methods return arrays; `solve` and its like return a `Solved`: the result y, the path to it, and
    what it cost.

    Attributes:
        experiment: what it was built from.
        params: the averaged parameters.
        step: training steps behind them.
        trained_config: the config that they were trained with, as plain data.
        batch_size: examples solved for at a time, on all devices together.
        layout: the devices, among which the examples are divided.
        folder: of the run, which keeps what is measured of the model; None: nothing does.
    """

    def __init__(
        self,
        experiment: Experiment,
        params: PyTree,
        step: int,
        *,
        batch_size: int = 256,
        trained_config: dict[str, Any] | None = None,
        layout: Layout | None = None,
        folder: pathlib.Path | None = None,
    ) -> None:
        """Wraps parameters, a copy on each device of the layout (by default one). Most users call `scoreflow_jax.load`."""
        self.layout = one_device() if layout is None else layout
        self.trained_config = experiment.config if trained_config is None else trained_config
        self.experiment = experiment
        self.params = params
        self.step = step
        self.batch_size = batch_size
        self.folder = folder
        self._measured: dict[str, Float[np.ndarray, " parts"]] = {}  # shared by all that solve with these parameters
        self._bases: dict[str, DataSource] = {}
        self._programs = CompiledPrograms(experiment.drift, self.layout)
        self._drift = jax.jit(lambda params, x, t, label: experiment.drift(params)(x, t, label))
        self._noise = jax.jit(lambda key, indices: sampling.noise_for(key, indices, experiment.spec.shape))

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 of the parameters."""
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_flatten_with_path(self.params)[0]:
            digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
        return digest.hexdigest()

    @property
    def parts(self) -> Float[np.ndarray, " parts"]:
        """Times that cut the way from noise to data into parts of equal local error, for config.solver.grid = "measured".

        Found by one adaptive solve, of a batch of at most 64 noises by bosh3 at 1e-3 (`grids.equal_parts`), and kept with the
        run. What was kept of other parameters, or is damaged, is measured anew. Of a drift without any error parts are even.
        """
        if "parts" not in self._measured and (kept := self._kept_parts()) is not None:
            self._measured["parts"] = kept
        if "parts" not in self._measured:
            tolerances = {
                "rtol": _GRID_TOLERANCE,
                "atol": _GRID_TOLERANCE,
                "max_steps": _GRID_STEPS,
                "per_sample": False,
            }
            adaptive = dataclasses.replace(self.experiment.solver.adaptive, method="bosh3", **tolerances)
            count = self.at_most(min(_GRID_IMAGES, self.batch_size))
            labels = np.arange(count) % self.num_classes if self.num_classes else None
            noise = self.source_points(jax.random.key(0), count)
            ends, errors = (each[0] for each in self.with_solver(adaptive).solve(LocalErrors(), noise, labels).y)
            made = errors.nonzero()[0].max(initial=-1) + 1
            path = self.experiment.path
            ends = (ends[:made] - path.t_min) / (path.t_max - path.t_min) if made else np.ones(1)
            self._measured["parts"] = equal_parts(ends, errors[: max(made, 1)]).round(6)
            self._keep_parts(count)
        return self._measured["parts"]

    def _kept_parts(self) -> Float[np.ndarray, " parts"] | None:
        """What the run has kept of these parameters, the same in all processes; None: nothing, or nothing whole."""
        if self.folder is None:
            return None
        found = self.kept_grid() if jax.process_index() == 0 else None
        times = json.loads(processes.gather_text(json.dumps(found and found.get("times")))[0])
        return np.asarray(times) if times and len(times) == PARTS + 1 else None

    def kept_grid(self) -> dict[str, Any] | None:
        """What its folder has kept of `parts`; None where it has nothing of these parameters, or nothing whole."""
        with contextlib.suppress(OSError, sums.Damaged):
            found = {} if self.folder is None else sums.read_json(self.folder / KEPT_GRID)
            return found if found.get("parameters_sha256") == self.fingerprint else None
        return None

    def _keep_parts(self, count: int) -> None:
        if self.folder is None or is_published(self.folder) or jax.process_index():
            return
        how = {"method": "bosh3", "tolerance": _GRID_TOLERANCE, "examples": count}
        about = {
            "parameters_sha256": self.fingerprint,
            "step": self.step,
            **how,
            "times": self._measured["parts"].tolist(),
        }
        with contextlib.suppress(OSError):  # a folder that is only read
            sums.write_json(self.folder / KEPT_GRID, about)

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for an unconditional model."""
        return self.experiment.num_classes

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels), or (dimension,) for points."""
        return self.experiment.spec.shape

    def drift(self, x: ArrayLike, t: ArrayLike, label: LabelsLike = None) -> Float[Array, "batch ..."]:
        """Returns f(x, t, c), dx/dt of the learned ODE.

        Args:
            x: states (batch, height, width, channel).
            t: a time in [0, 1] for all, or one for each; 0 is noise and 1 is data.
            label: a class for all, or one for each; None for an unconditional model.

        Raises:
            UserError: images of another shape, or labels outside the classes.
        """
        x = as_states(self.experiment, x)
        t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), x.shape[:1])
        with jax.default_matmul_precision(self.experiment.solver.precision):
            if jax.process_count() > 1:  # arrays of one process cannot meet parameters of all
                x, t = np.asarray(x), np.asarray(t)
            return self._drift(self.params, x, t, as_labels(self.experiment, label, len(x)))

    def generate(
        self,
        key: KeyLike,
        labels: LabelsLike = None,
        *,
        num_images: int | None = None,
        guidance: ArrayLike | None = None,
    ) -> HostState:
        """Generates images, by the ODE (eq. 10) or as config.sampler says: sample i starts from noise fold_in(key, i).

        On a path that leaves noise in the data, such as VP's, the expected data end them (config.sampler.denoise); `decode` goes
        to the last state, which `encode` goes back from.

        Args:
            key: from jax.random.key, or a seed.
            labels: a class for each image.
            num_images: how many; by default as many as labels.
            guidance: weight of classifier-free guidance, one for all or one for each; 1 or None: off. Only for models that
                were trained with config.model.label_dropout, or by jumps with config.model.most_guidance.

        Raises:
            UserError: labels outside the classes, or neither labels nor num_images, or guidance for a model without it.
        """
        return self.solve_samples(key, count_of(labels, num_images), labels, guidance=guidance).y

    def encode(self, images: ArrayLike, labels: LabelsLike = None) -> HostState:
        """Carries images at t = 1 to their latents at t = 0, the inverse of `decode`.

        Raises:
            UserError: images of another shape, or far outside [-1, 1]; labels outside the classes.
        """
        return self.solve(Encode(), as_data(self.experiment, images), labels).y

    def decode(self, latents: ArrayLike, labels: LabelsLike = None) -> HostState:
        """Carries latents at t = 0 to images at t = 1."""
        return self.solve(Generate(), as_states(self.experiment, latents, latents=True), labels).y

    def translate(
        self, images: ArrayLike, source: LabelsLike, target: LabelsLike, *, method: str = "latent"
    ) -> HostState:
        """Translates images of the source classes to the target classes.

        Args:
            images: (batch, height, width, channel).
            source, target: a class for all, or one for each.
            method: "latent" encodes with the source class and decodes with the target class; "difference" is the paper's
                eq. 20 (see scoreflow_jax/sampling/translate.py for why the first is the default).

        Raises:
            UserError: an unconditional model, an unknown method, or labels outside the classes.
        """
        return self.solve(Translate(method), as_data(self.experiment, images), source, target).y

    def interpolate(
        self,
        first: ArrayLike,
        second: ArrayLike,
        labels: LabelsLike = None,
        *,
        num_steps: int = 9,
        rule: str = "square_root",
        latents: bool = False,
    ) -> Float[np.ndarray, "batch steps ..."]:
        """Encodes two images, interpolates between their latents and decodes.

        Args:
            first, second: images, or latents where `latents` says so.
            labels: the class of both.
            num_steps: images from the first to the second, both included.
            rule: "square_root" (the paper's), "slerp" or "linear".
            latents: first and second are latents at t = 0 already.
        """
        if not latents:
            ends = [as_data(self.experiment, end) for end in (first, second)]
            checked = None if labels is None else as_labels(self.experiment, labels, len(ends[0]))
            both = self.solve(Encode(), jnp.concatenate(ends), None if checked is None else np.tile(checked, 2))
            first, second = np.split(both.y, 2)
        return self.solve_between(first, second, labels, num_steps=num_steps, rule=rule).y

    def log_likelihood(
        self,
        images: ArrayLike,
        labels: LabelsLike = None,
        *,
        key: KeyLike | None = None,
        probe: str = "rademacher",
        probes: int = 1,
        time: float | None = None,
    ) -> Float[np.ndarray, " batch"]:
        """The log density that the ODE gives to images, in nats: a density on [-1, 1], for dequantized images.

        It is that of states at the path's t_max, so with noise of `path.noise_left` in it: images sharper than that have the
        density of such states.

        Of points it is that of standardized coordinates; less sum(log scale) it is one in the table's own units.

        Args:
            images: (batch, height, width, channel).
            labels: a class for all, or one for each.
            key: of Hutchinson's probes, which share nothing with noise of the same key; jax.random.key(0) where none is given.
            probe: "rademacher" or "gaussian" for Hutchinson's estimate, unbiased but noisy for a single image; "exact" for the
                whole trace.
            probes: of each image, of whose estimates the mean is taken; with several, y[2] of
                `solve(programs.LogLikelihood(...), ...)` is the standard error of that mean.
            time: of states on the way, whose density at that t is asked for; by default they are data.

        Raises:
            UserError: a source that is not Gaussian, an unknown probe, a time outside the path's, or images or labels that do
                not fit.
        """
        images = (
            as_data(self.experiment, images) if time is None else images
        )  # on the way there is noise in them, as much as the path has
        key = None if key is None else as_key(key)
        return self.solve(LogLikelihood(key, probe, probes, time), images, labels).y[0]

    def formula_log_density(
        self,
        images: ArrayLike,
        labels: LabelsLike = None,
        *,
        key: KeyLike | None = None,
        formula: DensityFormula | None = None,
        reference: Reference | None = None,
    ) -> tuple[Float[np.ndarray, " batch"], Float[np.ndarray, " batch"]]:
        """log p of images from scores alone (`density_formula.py`), and its standard error, in nats: a density on [-1, 1].

        Of a learned model it is a lower bound of the density of its SDE, not that of its ODE, which `log_likelihood` gives. It
        goes to the path's end: on one that leaves noise in the data its mean over them is too low (`density_formula.tail`).

        Args:
            images: (batch, height, width, channel), dequantized.
            labels: a class for all, or one for each.
            key: of levels and noise; jax.random.key(0) where none is given.
            formula: how the integral is estimated: by default 256 network calls an image.
            reference: a Gaussian like the data, such as their pixels' mean and variance: the more alike, the smaller the error.

        Raises:
            UserError: a source that is not Gaussian, or images or labels that do not fit.
        """
        program = FormulaDensity(
            None if key is None else as_key(key),
            formula=formula or DensityFormula(),
            reference=reference or Reference(),
        )
        value, error, _ = self.solve(program, as_data(self.experiment, images), labels).y
        return value, error

    def generate_with_likelihood(
        self,
        key: KeyLike,
        labels: LabelsLike = None,
        *,
        num_images: int | None = None,
        probe: str = "rademacher",
        probes: int = 1,
    ) -> tuple[HostState, Float[np.ndarray, " batch"]]:
        """Generates images by the ODE, with the log density of each in nats.

        They are the last states of the ODE, of which the density is: no expected data end them, as `generate`'s may.

        Args:
            key: from jax.random.key, or a seed.
            labels: a class for each image.
            num_images: how many; by default as many as labels.
            probe, probes: as of `log_likelihood`.
        """
        key = as_key(key)
        noise = self.source_points(key, count_of(labels, num_images))
        density, images, _ = self.solve(LogLikelihood(key, probe, probes, generating=True), noise, labels).y
        return images, density

    def source_points(
        self, key: KeyLike, count: int, *, first: int = 0, split: str = "test"
    ) -> Float[Array, "batch ..."]:
        """Draws points first .. first + count - 1 at t = 0 of this key: noise, or what `config.data.base` describes.

        Noise i is drawn from fold_in(key, i), times the path's prior scale. Of a data set the split is gone through in the order
        that the key shuffles it to, again and again.

        Args:
            key: of the samples, or a seed.
            count: how many.
            first: the number of the first.
            split: of the data set at t = 0, "train" or "test"; noise has none.

        Raises:
            UserError: that data set is not there.
        """
        key = as_key(key)
        if not self.experiment.data.base:
            indices = jax.device_put(np.arange(first, first + sampling.padded(count)))  # few programs here too
            noise = self._noise(key, indices)
            return jax.device_put(np.float32(self.experiment.path.prior_scale) * np.asarray(noise)[:count])
        base = self._base(split)
        order = np.asarray(jax.random.permutation(key_of(key, "base order"), len(base)))
        pixels = base.read(order[np.arange(first, first + count) % len(order)])["image"]
        return jnp.asarray(self.experiment.scaling.to_images(pixels))

    def at_most(self, count: int) -> int:
        """`count`, or the number of different points at t = 0 where they are data and fewer."""
        return min(count, len(self._base("test"))) if self.experiment.data.base else count

    def _base(self, split: str) -> DataSource:
        if split not in self._bases:
            self._bases[split] = self.experiment.base_split(split)
        return self._bases[split]

    def with_solver(self, solver: Solver) -> "Model":
        """The same model solving its ODEs otherwise; what is compiled serves both, but for another method."""
        other = self.with_experiment(dataclasses.replace(self.experiment, solver=solver))
        other._programs, other._measured = self._programs, self._measured
        return other

    def with_params(self, params: PyTree) -> "Model":
        """The same model with other parameters, of no run and of which nothing is measured; what is compiled serves both."""
        other = self.with_experiment(self.experiment)
        other.folder = None  # the run keeps what is measured of its own
        other.params, other._programs, other._noise = params, self._programs, self._noise
        return other

    def with_sampler(self, sampler: Sampler) -> "Model":
        """The same model sampling otherwise.

        Raises:
            ValueError: the sampler does not go with the path.
        """
        sampler.check_path(self.experiment.path)
        return self.with_experiment(dataclasses.replace(self.experiment, sampler=sampler))

    def with_experiment(self, experiment: Experiment) -> "Model":
        """The same parameters under other settings."""
        return Model(
            experiment,
            self.params,
            self.step,
            batch_size=self.batch_size,
            trained_config=self.trained_config,
            layout=self.layout,
            folder=self.folder,
        )

    def solve_samples(
        self,
        key: KeyLike,
        count: int,
        labels: LabelsLike,
        *,
        first: int = 0,
        guidance: ArrayLike | None = None,
    ) -> Solved:
        """Generates samples first .. first + count - 1 of this key, by the sampler of the config, with what they cost.

        Args:
            key: of the samples, or a seed.
            count: how many.
            labels: a class for all, or one for each; None for an unconditional model.
            first: the number of the first.
            guidance: weight of classifier-free guidance, one for all or one for each; 1 or None: off.
        """
        key = as_key(key)
        points = self.source_points(key, count, first=first)
        if self.experiment.sampler.is_ode:
            return self.solve(Generate(guidance, denoise=True), points, labels)
        keys = sampling.sample_keys(key_of(key, "sampler"), np.arange(first, first + count))
        return self.solve(Sample(keys, guidance), points, labels)

    def solve_stochastic(
        self, key: KeyLike, points: ArrayLike, labels: LabelsLike = None, *, backwards: bool = False
    ) -> Solved:
        """Carries points at t = 0 to t = 1 by the config's sampler, or data back to the source: at random, where the ODE is not.

        Args:
            key: of the noise on the way, or a seed.
            points: at t = 0, or backwards data, (batch, ...).
            labels: a class for all, or one for each; None for an unconditional model.
            backwards: from t = 1 to t = 0.

        Raises:
            UserError: the ODE, which `decode` and `encode` are of; backwards another sampler than euler_maruyama.
        """
        keys = sampling.sample_keys(key_of(as_key(key), "sampler"), np.arange(len(as_states(self.experiment, points))))
        return self.solve(Sample(keys, backwards=backwards), points, labels)

    def solve_between(
        self, first: ArrayLike, second: ArrayLike, labels: LabelsLike, *, num_steps: int, rule: str
    ) -> Solved:
        """Decodes latents between two, both included, to images (batch, steps, ...), with what they cost.

        Args:
            first, second: latents at t = 0, (batch, ...).
            labels: the class of each pair, or one for all; None for an unconditional model.
            num_steps: images from the first to the second, both included.
            rule: "square_root" (the paper's), "slerp" or "linear".
        """
        z0, z1 = (as_states(self.experiment, z, latents=True) for z in (first, second))
        between = sampling.interpolate_latents(z0, z1, jnp.linspace(0.0, 1.0, num_steps), rule)
        repeated = None if labels is None else np.tile(as_labels(self.experiment, labels, len(z0)), num_steps)
        solved = self.solve(Generate(), between.reshape(-1, *self.image_shape), repeated)
        y = np.swapaxes(solved.y.reshape(num_steps, len(z0), *self.image_shape), 0, 1)
        return dataclasses.replace(solved, y=y)

    def solve(self, program: Program, x: ArrayLike, *labels: LabelsLike, times: Any = None) -> Solved:
        """Runs a program in batches: what the methods above return the results of, with what it cost.

        Args:
            program: a record of `programs.py`. It is compiled once for each kind of it and of the solver, times and batch size.
            x: states, (batch, height, width, channel) or (batch, dimension).
            labels: a class for all, or one for each; of a translation source and target.
            times: at which states are kept, in the order in which they are passed.

        Raises:
            UserError: the model cannot be solved so, states or labels do not fit, or the solve failed.
        """
        experiment = self.experiment
        program = program.of(experiment)
        images = as_states(experiment, x)
        how = self._how(program, times)
        labels = labels or (None,) * program.num_labels
        # On the host, where to choose and repeat some of them compiles nothing.
        arrays = (
            np.asarray(images),
            *program.arrays(experiment, len(images), labels),
            *(as_labels(experiment, label, len(images)) for label in labels),
        )
        return sampling.solve_in_batches(
            lambda *batch: self._programs.compiled(program.kind, how, self.params, batch),
            arrays,
            self.batch_size,
            multiple=self.layout.mesh.size,
            advice=program.advice,
        )

    def _how(self, program: Program, times: Any) -> How:
        span = (self.experiment.path.t_min, self.experiment.path.t_max)
        times = None if times is None else tuple(float(t) for t in np.clip(times, *span))
        solver = self.experiment.solver
        if solver.grid == "measured":
            solver = solver.with_numbers({"parts": self.parts})
        return How(solver, times, span, program.constants)

    def as_function(self, program: Program) -> Callable[..., Any]:
        """A solve as a function of parameters, states and labels, to be traced by what makes other programs of it.

        All other numbers are constants in it. It takes a batch of one example or more and returns the states at the end.

        Args:
            program: a record of `programs.py` that is called with nothing but states and labels.

        Raises:
            UserError: the model cannot be solved so.
        """
        program = program.of(self.experiment)
        how = self._how(program, None)
        run = self._programs.traceable(program.kind, how)
        numbers = {name: None if n is None else jnp.asarray(n) for name, n in how.solver.numbers.items()}
        numbers["rows"] = jnp.int32(1)  # of a step control, which fixed steps have none of

        def solve(params: PyTree, x: Any, *labels: Any) -> Any:
            return run(params, numbers, program.constants, x, *(labels or (None,) * program.num_labels)).y

        return solve
