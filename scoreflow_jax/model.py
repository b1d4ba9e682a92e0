"""A trained model in the hand: what `scoreflow_jax.load` returns, and what the commands work with.

import jax, scoreflow_jax
model = scoreflow_jax.load("runs/digits")
images = model.generate(jax.random.key(0), labels=[3, 3, 7])
latents = model.encode(images, [3, 3, 7])
sevens = model.translate(images, source=3, target=7)
"""

import collections
import dataclasses
import functools
import hashlib
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from scoreflow_jax import sampling
from scoreflow_jax.chain_bound import Cells, chain_bound
from scoreflow_jax.checkpoints import restore_ema
from scoreflow_jax.data import DataSource, TrainedOn
from scoreflow_jax.density_formula import DensityFormula, Gaussian, Table, formula_log_density
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import Experiment, build
from scoreflow_jax.likelihood import PROBES, draw_probes, generate_with_likelihood, log_likelihood
from scoreflow_jax.ode import Solver
from scoreflow_jax.parallel import Layout, make_layout, one_device, shard
from scoreflow_jax.paths import AffinePath
from scoreflow_jax.plain_config import MODEL_FIELDS, TRAINING_ONLY, differences, read_config, to_plain, with_end
from scoreflow_jax.randomness import KeyLike, as_key, key_of
from scoreflow_jax.sampling import Sampler, Solved, SolveStats
from scoreflow_jax.sampling.guidance import guided
from scoreflow_jax.typing import HostState, PRNGKey, PyTree
from scoreflow_jax.user_paths import user_path

_PROGRAMS = 24
"""Compiled solves that are kept: some 40 MB each for a network of 1.5 million parameters on CPU."""

_FAR = 10.0
"""Beyond it nothing is an image in [-1, 1], whatever noise or error is in it."""

LabelsLike = ArrayLike | list[int] | tuple[int, ...] | None
"""A label for all, one for each example, or None for an unconditional model."""


class Model:
    """A drift with its solver: generates, encodes, translates and interpolates.

    Images go in and come out as float32 in [-1, 1], shape (batch, height, width, channel); `scoreflow_jax.to_pixels` makes
    8-bit ones of them, and 8-bit ones (uint8) go in as well and are scaled. Points of a table go in and out as float32
    (batch, dimension), standardized: `data.Units` goes to the table's own units by shift and scale in the run's data.json. Keys
    may be seeds, such as 0. Methods return arrays; their twins `solve_*` also what it cost.

    Attributes:
        experiment: what it was built from.
        params: the averaged parameters.
        step: training steps behind them.
        trained_config: the config that they were trained with, as plain data.
        batch_size: examples solved for at a time, on all devices together.
        layout: the devices, among which the examples are divided.
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
    ) -> None:
        """Wraps parameters, a copy on each device of the layout (by default one). Most users call `scoreflow_jax.load`."""
        self.layout = one_device() if layout is None else layout
        self.trained_config = experiment.config if trained_config is None else trained_config
        self.experiment = experiment
        self.params = params
        self.step = step
        self.batch_size = batch_size
        self._bases: dict[str, DataSource] = {}
        # Solves, by name, solver's kind, times and batch size, the one used last at the end.
        self._compiled: collections.OrderedDict[Any, Callable[..., Any]] = collections.OrderedDict()
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
        x = self._images(x)
        t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), x.shape[:1])
        with jax.default_matmul_precision(self.experiment.solver.precision):
            if jax.process_count() > 1:  # arrays of one process cannot meet parameters of all
                x, t = np.asarray(x), np.asarray(t)
            return self._drift(self.params, x, t, self._labels(label, len(x)))

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
                were trained with config.model.label_dropout.

        Raises:
            UserError: labels outside the classes, or neither labels nor num_images, or guidance for a model without it.
        """
        return self.solve_samples(as_key(key), _count(labels, num_images), labels, guidance=guidance).y

    def encode(self, images: ArrayLike, labels: LabelsLike = None) -> HostState:
        """Carries images at t = 1 to their latents at t = 0, the inverse of `decode`.

        Raises:
            UserError: images of another shape, or far outside [-1, 1]; labels outside the classes.
        """
        return self.solve_encode(self._data(images), labels).y

    def decode(self, latents: ArrayLike, labels: LabelsLike = None) -> HostState:
        """Carries latents at t = 0 to images at t = 1."""
        return self.solve_generate(self._images(latents, latents=True), labels).y

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
        return self.solve_translate(self._data(images), source, target, method=method).y

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
        ends = (first, second) if latents else (self._data(first), self._data(second))
        return self.solve_interpolate(*ends, labels, num_steps=num_steps, rule=rule, latents=latents)[0].y

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

        It is that of states at the path's t_max, so with noise of `path.noise_left` in it: images are told no sharper than that.

        Of points it is that of standardized coordinates; less sum(log scale) it is one in the table's own units.

        Args:
            images: (batch, height, width, channel).
            labels: a class for all, or one for each.
            key: of Hutchinson's probes, which share nothing with noise of the same key; jax.random.key(0) where none is given.
            probe: "rademacher" or "gaussian" for Hutchinson's estimate, unbiased but noisy for a single image; "exact" for the
                whole trace.
            probes: of each image, of whose estimates the mean is taken; with several, y[2] of `solve_log_likelihood` is the
                standard error of that mean.
            time: of states on the way, whose density at that t is asked for; by default they are data.

        Raises:
            UserError: a source that is not Gaussian, an unknown probe, a time outside the path's, or images or labels that do
                not fit.
        """
        images = (
            self._data(images) if time is None else images
        )  # on the way there is noise in them, as much as the path has
        key = None if key is None else as_key(key)
        return self.solve_log_likelihood(images, labels, key=key, probe=probe, probes=probes, time=time).y[0]

    def formula_log_density(
        self,
        images: ArrayLike,
        labels: LabelsLike = None,
        *,
        key: KeyLike | None = None,
        formula: DensityFormula | None = None,
        reference: Gaussian | None = None,
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
        images, key = self._data(images), None if key is None else as_key(key)
        value, error, _ = self.solve_formula_density(images, labels, key=key, formula=formula, reference=reference).y
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
        """Images of the ODE and the log density of each in nats; probes as of `log_likelihood`.

        They are the last states of the ODE, of which the density is: no expected data end them, as `generate`'s may.
        """
        key = as_key(key)
        noise = self.source_points(key, _count(labels, num_images))
        solved = self.solve_generate_with_likelihood(noise, labels, key=key, probe=probe, probes=probes)
        density, images, _ = solved.y
        return images, density

    def source_points(
        self, key: PRNGKey, count: int, *, first: int = 0, split: str = "test"
    ) -> Float[Array, "batch ..."]:
        """Points first .. first + count - 1 at t = 0 of this key: noise, or what `config.data.base` describes.

        Noise i is drawn from fold_in(key, i), times the path's prior scale. Of a data set the split is gone through in the order
        that the key shuffles it to, again and again.

        Raises:
            UserError: that data set is not there.
        """
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
            self._bases[split] = self.experiment.base_source(split)
        return self._bases[split]

    def with_solver(self, solver: Solver) -> "Model":
        """The same model solving its ODEs otherwise; what is compiled serves both, but for another method."""
        other = self.with_experiment(dataclasses.replace(self.experiment, solver=solver))
        other._compiled = self._compiled
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
        )

    def solve_samples(
        self,
        key: PRNGKey,
        count: int,
        labels: LabelsLike,
        *,
        first: int = 0,
        guidance: ArrayLike | None = None,
    ) -> Solved:
        """`generate`: samples first .. first + count - 1 of this key, by the sampler of the config, with what they cost."""
        points = self.source_points(key, count, first=first)
        if self.experiment.sampler.is_ode:
            return self.solve_generate(points, labels, guidance=guidance, denoise=True)
        keys = sampling.sample_keys(key_of(key, "sampler"), np.arange(first, first + count))
        return self._sample(points, labels, np.asarray(keys), guidance)

    def solve_stochastic(
        self, key: PRNGKey, points: ArrayLike, labels: LabelsLike = None, *, backwards: bool = False
    ) -> Solved:
        """From points at t = 0 to t = 1 by the config's sampler, or backwards from data to the source: random, where the ODE
        is not.

        Raises:
            UserError: the ODE, which `decode` and `encode` are of; backwards another sampler than euler_maruyama.
        """
        name = self.experiment.sampler.name
        if name == "ode" or (backwards and name != "euler_maruyama"):
            raise UserError(
                f"config.sampler.name is {name!r}, expected 'euler_maruyama', the SDE that goes both ways; by the ODE decode and "
                "encode do"
            )
        keys = sampling.sample_keys(key_of(key, "sampler"), np.arange(len(self._images(points))))
        return self._sample(points, labels, np.asarray(keys), None, backwards=backwards)

    def _sample(
        self,
        x: ArrayLike,
        labels: LabelsLike,
        keys: np.ndarray,
        guidance: ArrayLike | None,
        *,
        backwards: bool = False,
    ) -> Solved:
        """By the sampler, guided where a weight is given."""
        e = self.experiment
        sampler, path = e.sampler, e.path
        unguided = guidance is None or (np.ndim(guidance) == 0 and float(np.asarray(guidance)) == 1.0)
        weights = None if unguided else self._weights(guidance, labels, len(self._images(x)))

        def run(drift: Any, x: Any, *rest: Any, times: Any, span: Any) -> Any:
            del times, span
            *weight, keys, label, _ = rest
            span = sampler.span(path)
            predict: Any = drift.predict
            if weight:
                predict = lambda kind, x, t, told: guided(functools.partial(drift.predict, kind))(x, t, told)  # noqa: E731
            told = (label, weight[0]) if weight else label
            with jax.default_matmul_precision(e.solver.precision):
                return sampling.sample_stochastically(
                    predict, drift.path, x, told, keys, sampler, span=span[::-1] if backwards else span
                )

        advice = (
            f"the samples of {sampler.name} are not finite. Train longer, raise config.sampler.num_steps or margin, or lower "
            "config.sampler.noise or snr"
        )
        name = "sample" + ("" if unguided else "_guided") + ("_backwards" if backwards else "")
        extra = (keys,) if weights is None else (weights, keys)
        return self._solve(name, run, None, x, labels, extra=extra, advice=advice)

    def solve_generate(
        self,
        latents: ArrayLike,
        labels: LabelsLike,
        times: Any = None,
        guidance: ArrayLike | None = None,
        *,
        denoise: bool = False,
    ) -> Solved:
        """`decode`, with what it cost (in field evaluations: twice that many network calls under guidance).

        Args:
            latents, labels: as there.
            times: ascending; states at them are kept.
            guidance: as of `generate`.
            denoise: end as samples do: with the expected data where the path leaves noise (`Sampler.denoises`).
        """
        e = self.experiment
        denoise = denoise and dataclasses.replace(e.sampler, name="ode").denoises(e.path)
        name = "generate_denoised" if denoise else "generate"
        if guidance is None or (np.ndim(guidance) == 0 and float(np.asarray(guidance)) == 1.0):
            return self._solve(name, functools.partial(sampling.generate, denoise=denoise), times, latents, labels)
        weights = self._weights(guidance, labels, len(self._images(latents)))

        def generate(drift: Any, x: Any, weights: Any, label: Any, solver: Any, **more: Any) -> Any:
            return sampling.generate(drift, x, label, solver, guidance=weights, denoise=denoise, **more)

        return self._solve(f"{name}_guided", generate, times, latents, labels, extra=(weights,))

    def solve_encode(self, images: ArrayLike, labels: LabelsLike, times: Any = None) -> Solved:
        """`encode`, with states at the descending `times` and with what it cost."""
        return self._solve("encode", sampling.encode, times, images, labels)

    def solve_translate(
        self,
        images: ArrayLike,
        source: LabelsLike,
        target: LabelsLike,
        *,
        method: str = "latent",
        times: Any = None,
        inverse: bool = False,
    ) -> Solved:
        """`translate`, with states at the ascending `times` and with what it cost (in field evaluations).

        With `inverse` the translation from source to target is undone: for "difference" by solving the same ODE from t = 1 to
        0, for "latent" by translating back.
        """
        if not self.num_classes:
            raise UserError(
                "an unconditional model cannot translate: it has no classes. Train with config.model.conditional = True"
            )
        if method not in sampling.TRANSLATIONS:
            names = ", ".join(sampling.TRANSLATIONS)
            raise UserError(f"unknown translation method {method!r}, expected one of {names}")
        solve, name = sampling.TRANSLATIONS[method].solve, f"translate_{method}"
        if inverse and method == "difference":
            return self._solve(f"{name}_inverse", functools.partial(solve, inverse=True), times, images, source, target)
        if inverse:
            source, target = target, source
        return self._solve(name, solve, times, images, source, target)

    def solve_log_likelihood(
        self,
        images: ArrayLike,
        labels: LabelsLike,
        *,
        key: PRNGKey | None = None,
        probe: str = "rademacher",
        probes: int = 1,
        time: float | None = None,
    ) -> Solved:
        """`log_likelihood`, y being (log densities, latents, the former's standard errors over probes), with what it cost.

        The errors are NaN with one probe and 0 with the exact divergence.
        """
        path = self.experiment.path
        if time is not None and not path.t_min < time <= 1.0:
            raise UserError(f"time is {time}, expected one from {path.t_min} (exclusive) to 1")
        return self._solve_likelihood("log_likelihood", log_likelihood, images, labels, key, (probe, probes), time)

    def solve_generate_with_likelihood(
        self,
        latents: ArrayLike,
        labels: LabelsLike,
        *,
        key: PRNGKey | None = None,
        probe: str = "rademacher",
        probes: int = 1,
    ) -> Solved:
        """`solve_generate`, y being (log densities, images, the former's standard errors as of `solve_log_likelihood`)."""
        name = "generate_with_likelihood"
        return self._solve_likelihood(name, generate_with_likelihood, latents, labels, key, (probe, probes))

    def _solve_likelihood(
        self,
        name: str,
        function: Callable[..., Any],
        x: ArrayLike,
        labels: LabelsLike,
        key: PRNGKey | None,
        probing: tuple[str, int],
        time: float | None = None,
    ) -> Solved:
        """Runs a function of likelihood.py, with so many probes of a kind."""
        probe, num_probes = probing
        if not self.experiment.path.gaussian_source:
            raise UserError("this model has no likelihood: its source is not Gaussian")
        if probe not in PROBES:
            raise UserError(f"unknown probe {probe!r}, expected one of {', '.join(PROBES)}")
        if num_probes < 1 or (probe == "exact" and num_probes > 1):
            one = "1, the exact divergence needs none" if probe == "exact" else "at least 1"
            raise UserError(f"got {num_probes} probes, expected {one}")
        key = jax.random.key(0) if key is None else key
        extra: tuple[np.ndarray, ...] = ()
        if probe != "exact":
            draw = jax.jit(lambda key, indices: draw_probes(key, indices, self.image_shape, probe, num_probes))
            extra = (np.asarray(draw(key, jnp.arange(len(self._images(x))))),)

        def solve(drift: Any, x: Any, *rest: Any, times: Any, span: Any) -> Any:
            del times
            *given, label, solver = rest
            if time is not None:
                span = (span[0], min(time, span[1]))
            scale = self.experiment.path.prior_scale
            return function(drift, x, label, solver, probes=given[0] if given else None, span=span, prior_scale=scale)

        return self._solve(f"{name}_{probe}_{num_probes}_{time}", solve, None, x, labels, extra=extra)

    def solve_formula_density(
        self,
        images: ArrayLike,
        labels: LabelsLike,
        *,
        key: PRNGKey | None = None,
        keys: np.ndarray | None = None,
        formula: DensityFormula | None = None,
        reference: Gaussian | None = None,
        table: Table | None = None,
    ) -> Solved:
        """`formula_log_density`, y being (log densities, standard errors, shares for `density_formula.tail`), with what it cost.

        Args:
            images, labels, key, formula, reference: as there.
            keys: data of a key for each image in place of `key`: the same key draws the same levels and noise.
            table: of levels "tabulated".
        """
        path = self.experiment.path
        if not (isinstance(path, AffinePath) and path.gaussian_source):
            raise UserError("this model has no density by scores: its source is not Gaussian")
        chosen = DensityFormula() if formula is None else formula
        given = Gaussian() if reference is None else Gaussian(*(np.asarray(v, np.float32) for v in reference))

        def solve(drift: Any, x: Any, counts: Any, keys: Any, label: Any, solver: Any, *, times: Any, span: Any) -> Any:
            del times, span
            how = {"reference": given, "table": table, "num_levels": counts[0]}
            with jax.default_matmul_precision(solver.precision):
                return formula_log_density(drift.predict, drift.path, x, label, keys, chosen, **how)

        told = hashlib.sha256(b"".join(np.asarray(v).tobytes() for v in (*given, *(table or ())))).hexdigest()
        # One program for every number of calls.
        name = f"formula_{dataclasses.replace(chosen, num_calls=chosen.unit)}_{told}"
        counts = np.full(len(self._images(images)), chosen.num_levels, np.int32)
        return self._solve_by_keys(name, solve, images, labels, key, keys, draw="formula", extra=(counts,))

    def solve_chain_bound(
        self,
        images: ArrayLike,
        labels: LabelsLike,
        *,
        key: PRNGKey | None = None,
        variance: str = "posterior",
        num_calls: int | None = None,
        replicates: int = 1,
    ) -> Solved:
        """DDPM's variational bound (`chain_bound.py`), y being (bounds in nats, standard errors), with what it cost.

        Args:
            images: as the model was trained on them, at their levels or dequantized: the bound is of the levels'
                probability, or of a density on [-1, 1]; of points it is of a density.
            labels: a class for all, or one for each.
            key: of steps and noise; jax.random.key(0) where none is given.
            variance, num_calls, replicates: as there.

        Raises:
            UserError: another path than DDPM's, or images or labels that do not fit.
        """
        if not self.experiment.path.is_chain:
            raise UserError("a bound by the chain needs DDPM's path: config.path.name is not 'ddpm'")
        levels, dequantized = self.experiment.spec.levels, self.experiment.data.dequantize
        cells = Cells.of(levels) if levels and not dequantized else Cells()

        def solve(drift: Any, x: Any, keys: Any, label: Any, solver: Any, *, times: Any, span: Any) -> Any:
            del times, span
            how = {"cells": cells, "variance": variance, "num_calls": num_calls, "replicates": replicates}
            with jax.default_matmul_precision(solver.precision):
                return chain_bound(drift.predict, drift.path, x, label, keys, **how)

        name = f"chain_{variance}_{num_calls}_{replicates}"
        return self._solve_by_keys(name, solve, images, labels, key, None, draw="chain")

    def _solve_by_keys(
        self,
        name: str,
        solve: Callable[..., Any],
        images: ArrayLike,
        labels: LabelsLike,
        key: PRNGKey | None,
        keys: np.ndarray | None,
        *,
        draw: str,
        extra: tuple[np.ndarray, ...] = (),
    ) -> Solved:
        """Runs an estimate that draws from a key for each image, by default of the draw of that name; `extra` go before them."""
        if keys is None:
            named = key_of(jax.random.key(0) if key is None else key, draw)
            keys = np.asarray(sampling.sample_keys(named, np.arange(len(self._images(images)))))
        advice = "the estimate is not finite: the network's answers are not. Train longer, or look at its training"
        return self._solve(name, solve, None, images, labels, extra=(*extra, keys), advice=advice)

    def solve_interpolate(
        self, first: ArrayLike, second: ArrayLike, labels: LabelsLike, *, num_steps: int, rule: str, latents: bool
    ) -> tuple[Solved, SolveStats | None]:
        """`interpolate`, y being (batch, steps, height, width, channel), with what decoding and what encoding cost."""
        encoding = None
        z0, z1 = self._images(first, latents=latents), self._images(second, latents=latents)
        if not latents:
            twice = None if labels is None else np.tile(self._labels(labels, len(z0)), 2)
            encoded = self.solve_encode(jnp.concatenate([z0, z1]), twice)
            z0, z1 = (jnp.asarray(z) for z in np.split(encoded.y, 2))
            encoding = encoded.stats
        between = sampling.interpolate_latents(z0, z1, jnp.linspace(0.0, 1.0, num_steps), rule)
        repeated = None if labels is None else np.tile(self._labels(labels, len(z0)), num_steps)
        solved = self.solve_generate(between.reshape(-1, *self.image_shape), repeated)
        solved.y = np.swapaxes(solved.y.reshape(num_steps, len(z0), *self.image_shape), 0, 1)
        return solved, encoding

    def _solve(
        self,
        name: str,
        function: Callable[..., Any],
        times: Any,
        x: ArrayLike,
        *labels: LabelsLike,
        extra: tuple[np.ndarray, ...] = (),
        **said: str,
    ) -> Solved:
        """Runs a function of a drift in batches, compiled once for each name, kind of solver, times and batch; `extra` go before
        labels."""
        images = self._images(x)
        solver, drift, path = self.experiment.solver, self.experiment.drift, self.experiment.path
        span = (path.t_min, path.t_max)
        times = None if times is None else tuple(float(t) for t in np.clip(times, *span))

        def solve(params: PyTree, numbers: dict[str, Any], x: Any, *rest: Any) -> Any:
            kept = None if times is None else jnp.asarray(times, jnp.float32)
            return function(drift(params), x, *rest, solver.with_numbers(numbers), times=kept, span=span)

        def compile_solve(*arrays: Any) -> Callable[..., Any]:
            program = (name, solver.kind, times, len(arrays[0]), *(a is None for a in arrays))
            if program in self._compiled:
                self._compiled.move_to_end(program)
            else:
                # Every process is given all of the solution: what comes of it is computed by all alike.
                jitted = jax.jit(solve, out_shardings=self.layout.replicated)
                numbers = {**solver.numbers, "rows": np.int32(0)}
                self._compiled[program] = jitted.lower(self.params, numbers, *shard(arrays, self.layout)).compile()
                while len(self._compiled) > _PROGRAMS:
                    self._compiled.popitem(last=False)
            compiled = self._compiled[program]
            return lambda rows, *arrays: compiled(
                self.params, {**solver.numbers, "rows": rows}, *shard(arrays, self.layout)
            )

        # On the host, where to choose and repeat some of them compiles nothing.
        arrays = (np.asarray(images), *extra, *(self._labels(label, len(images)) for label in labels))
        return sampling.solve_in_batches(compile_solve, arrays, self.batch_size, multiple=self.layout.mesh.size, **said)

    def _images(self, x: ArrayLike, *, latents: bool = False) -> Float[Array, "batch ..."]:
        """float32 states; 8-bit pictures, which latents are none of, are scaled to [-1, 1].

        Raises:
            UserError: another shape, or whole numbers of another kind.
        """
        x = x if isinstance(x, jax.Array) else np.asarray(x)
        if x.dtype.kind not in "biuf" and not jnp.issubdtype(x.dtype, jnp.floating):  # text, objects, complex numbers
            raise UserError(f"got images of {x.dtype}, expected uint8 from 0 to 255, or float32")
        if x.shape[1:] != self.image_shape or not x.ndim:
            raise UserError(f"got images of shape {x.shape}, expected (batch, {', '.join(map(str, self.image_shape))})")
        if self.experiment.spec.levels and not jnp.issubdtype(x.dtype, jnp.floating):
            if latents or x.dtype != jnp.uint8:
                wanted = "float32" if latents else "uint8 from 0 to 255, or float32 in [-1, 1]"
                raise UserError(f"got {'latents' if latents else 'images'} of {x.dtype}, expected {wanted}")
            x = self.experiment.scaling.from_eight_bits(np.asarray(x))
        if isinstance(x, jax.Array):
            return jnp.asarray(x, jnp.float32)
        return jax.device_put(np.asarray(x, np.float32))  # jnp.asarray compiles a program for every shape

    def _data(self, images: ArrayLike) -> Float[Array, "batch ..."]:
        """Images of a user's, at t = 1: `_images`, whose values can be seen to be no pixels' or other pixels'.

        Raises:
            UserError: values far outside [-1, 1], or not finite.
        """
        x = self._images(images)
        if not self.experiment.spec.levels or isinstance(x, jax.core.Tracer) or not x.size:
            return x
        low, high = float(jnp.min(x)), float(jnp.max(x))
        if not (low >= -_FAR and high <= _FAR):
            raise UserError(
                f"got images from {low:.4g} to {high:.4g}, expected -1 (black) to 1 (white): give 8-bit pictures as uint8, which "
                "are scaled, or scale them"
            )
        if 0.0 <= low < high:
            warnings.warn(
                f"images from {low:.4g} to {high:.4g} have nothing darker than the middle grey, which is 0 here: black is -1 and "
                "white 1. Pictures in [0, 1] become such by 2 x - 1",
                stacklevel=3,
            )
        return x

    def _weights(self, guidance: ArrayLike, labels: LabelsLike, count: int) -> np.ndarray:
        """float32 weights of guidance (count,).

        Raises:
            UserError: a model that cannot be guided, no labels, or weights of another shape.
        """
        if not self.experiment.network.label_dropout or labels is None:
            what = "labels" if labels is None else "a model trained with config.model.label_dropout, such as 0.1"
            raise UserError(f"guidance needs {what}: it mixes the conditional and the unconditional drift")
        array = np.asarray(guidance, np.float32)
        if array.shape not in ((), (count,)):
            raise UserError(
                f"got guidance of shape {array.shape} for {count} images, expected one weight, or one for each"
            )
        return np.broadcast_to(array, (count,))

    def _labels(self, labels: LabelsLike, count: int) -> Any:
        """int32 labels (count,) from one for all or one for each; None for an unconditional model.

        Raises:
            UserError: labels missing, too many, of the wrong kind or outside the classes.
        """
        if not self.num_classes:
            if labels is not None:
                raise UserError("this model is unconditional: give no labels")
            return None
        if labels is None and self.experiment.network.label_dropout:
            return None  # the unconditional drift
        if labels is None:
            raise UserError(f"this model has {self.num_classes} classes: give a label for each image")
        traced = isinstance(labels, jax.core.Tracer)
        array: Any = labels if traced else np.asarray(labels)
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise UserError(f"labels are {array.dtype}, expected integers from 0 to {self.num_classes - 1}")
        if array.shape not in ((), (count,)):
            raise UserError(f"got labels of shape {array.shape} for {count} images, expected one, or one for each")
        if traced:  # what they are is not known yet
            return jnp.broadcast_to(array, (count,)).astype(jnp.int32)
        if array.size and not (array.min() >= 0 and array.max() < self.num_classes):
            wrong = array[(array < 0) | (array >= self.num_classes)].flat[0]
            raise UserError(f"label {wrong} is outside the classes, expected 0 to {self.num_classes - 1}")
        return np.broadcast_to(array, (count,)).astype(np.int32)


def _count(labels: LabelsLike, num_images: int | None) -> int:
    if num_images is not None:
        if type(num_images) is bool or not isinstance(num_images, int | np.integer) or num_images < 1:
            raise UserError(f"num_images is {num_images!r}, expected a whole number of at least 1")
        return int(num_images)
    if labels is None:
        raise UserError("give labels, or num_images for an unconditional model")
    return int(np.size(np.asarray(labels)))


def load(
    workdir: str | pathlib.Path,
    *,
    step: int | None = None,
    batch_size: int = 256,
    devices: list[jax.Device] | None = None,
) -> Model:
    """Loads a trained model from its workdir.

    Args:
        workdir: of a run of `--mode=train`, such as "runs/digits".
        step: the checkpoint; by default the newest.
        batch_size: examples solved for at a time.
        devices: among which to divide them; by default all.

    Raises:
        UserError: no run or no whole checkpoint there.
    """
    workdir = user_path(workdir)
    layout = make_layout(devices) if devices else make_layout()
    return load_model(build(read_config(workdir)), workdir, step=step, batch_size=batch_size, layout=layout)


def load_model(
    experiment: Experiment,
    workdir: pathlib.Path,
    *,
    step: int | None = None,
    batch_size: int = 256,
    layout: Layout | None = None,
) -> Model:
    """Like `load`, with the settings of an experiment, and the devices, at hand. Its experiment knows the run's data."""
    experiment = dataclasses.replace(experiment, trained_on=TrainedOn.read(workdir))
    layout = layout or make_layout()
    on_all = lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=layout.replicated)  # noqa: E731
    shapes = jax.tree.map(on_all, experiment.parameter_shapes())
    restored = restore_ema(workdir / "checkpoints", ema=shapes, step=step)
    trained = to_plain(with_end(restored.meta["config"]))
    say_edited(workdir, restored.step, differences(to_plain(experiment.config), trained, MODEL_FIELDS, TRAINING_ONLY))
    return Model(experiment, restored.ema, restored.step, batch_size=batch_size, trained_config=trained, layout=layout)


def say_edited(workdir: pathlib.Path, step: int, changed: list[str]) -> None:
    """A line where the config at hand is not the one of a checkpoint: config.json is a file that may be edited, or be damaged.

    Args:
        workdir: of the run.
        step: of the checkpoint.
        changed: what differs, with both values.
    """
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        print(
            f"warning: the config differs from the one that the checkpoint of step {step} in {workdir} was trained with "
            f"({'; '.join(changed[:3])}{more}): the config's value is taken",
            file=sys.stderr,
        )
