"""What a model solves: records, each a function of a drift, which `Model.solve` compiles and runs in batches.

A record says everything of one solve; its `kind` is what of that is compiled, so that equal kinds share a program and the rest,
numbers and arrays, are its arguments.
"""

import abc
import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from scoreflow_jax import sampling
from scoreflow_jax.chain_bound import Cells, chain_bound
from scoreflow_jax.density_formula import DensityFormula, LevelTable, Reference, formula_log_density
from scoreflow_jax.errors import UserError
from scoreflow_jax.likelihood import PROBES, draw_probes, generate_with_likelihood, log_likelihood
from scoreflow_jax.model_inputs import Experiment, LabelsLike, as_weights
from scoreflow_jax.ode import Solution, Solver
from scoreflow_jax.paths import AffinePath
from scoreflow_jax.paths.guidance import guided, is_off
from scoreflow_jax.randomness import key_of
from scoreflow_jax.sampling import Sampler
from scoreflow_jax.sampling.flow import Span, as_field
from scoreflow_jax.settings.solve import OF_ONE_DRIFT
from scoreflow_jax.typing import PRNGKey, PyTree

Arrays = tuple[np.ndarray, ...]

_STEEP = (
    "the drift is not finite or too steep. Train longer, loosen config.solver.rtol and atol, or raise "
    "config.solver.max_steps"
)
_ESTIMATE = "the estimate is not finite: the network's answers are not. Train longer, or look at its training"


class How(NamedTuple):
    """What a program is called with besides its examples.

    Attributes:
        solver: of the ODE.
        times: at which states are kept; None: none are.
        span: the times to solve between, from noise to data.
        constants: `Program.constants`.
    """

    solver: Solver
    times: Any
    span: Span
    constants: PyTree


@dataclasses.dataclass(frozen=True)
class Program(abc.ABC):
    """A solve for many examples."""

    num_labels: ClassVar[int] = 1
    """How many labels each example has."""

    @property
    def advice(self) -> str:
        """What is said of a solve that failed."""
        return _STEEP

    @property
    def kind(self) -> "Program":
        """What of it is compiled: hashable, and equal for those that share a program; default: all of it."""
        return self

    def of(self, experiment: Experiment) -> "Program":
        """The program for a model, with what it takes from its experiment.

        Raises:
            UserError: the model cannot be solved so.
        """
        del experiment
        return self

    def arrays(self, experiment: Experiment, count: int, labels: tuple[LabelsLike, ...]) -> Arrays:
        """Returns arrays with an entry for each example, which it is called with besides examples and labels; default: none.

        Args:
            experiment: of the model.
            count: how many examples there are.
            labels: of each, `num_labels` of them.

        Raises:
            UserError: what it was given does not fit the model, the labels or their number.
        """
        del experiment, count, labels
        return ()

    @property
    def constants(self) -> PyTree:
        """Arrays for all examples that it is called with."""
        return ()

    @abc.abstractmethod
    def __call__(self, drift: Any, x: Any, *rest: Any, how: How) -> Solution:
        """Solves a batch while it is traced.

        Args:
            drift: a `NetworkDrift`.
            x: the examples.
            rest: a batch of each of `arrays`, then of labels.
            how: what it shares with other programs.
        """


@dataclasses.dataclass(frozen=True)
class Generate(Program):
    """Carries source points at t = 0 to data at t = 1 by the ODE, eq. 10 of ScoreFlow.

    Attributes:
        guidance: weight of classifier-free guidance, one for all or one for each; None or 1: off.
        denoise: end as samples do: with the expected data where the path leaves noise (`Sampler.denoises`).
    """

    guidance: ArrayLike | None = None
    denoise: bool = False

    @property
    def kind(self) -> Program:
        """Whether it is guided, not how much."""
        return Generate(None if is_off(self.guidance) else 0.0, self.denoise)

    def of(self, experiment: Experiment) -> Program:
        """The program without a last step on paths that leave no noise; refuses guidance that jumps are not told of."""
        most = experiment.network.most_guidance
        if experiment.solver.method == "flow_map" and not is_off(self.guidance):
            weights = np.asarray(self.guidance)
            if not most or weights.min() < 1 or weights.max() > most:
                told = (
                    f"is told weights from 1 to {most:g}"
                    if most
                    else "was trained without guidance (model.most_guidance)"
                )
                raise UserError(
                    f"guidance is {self.guidance}, but config.solver.method is 'flow_map', whose network {told}: set it to 1, or "
                    "take 'dopri5'"
                )
        ends = dataclasses.replace(experiment.sampler, name="ode").denoises(experiment.path)
        if self.denoise and ends and not is_off(self.guidance) and not experiment.network.label_dropout:
            raise UserError(
                "samples on this path end with the guided expected data, which take the network without a label too: set "
                "config.sampler.denoise=False, or guidance to 1"
            )
        return dataclasses.replace(self, denoise=self.denoise and ends)

    def arrays(self, experiment: Experiment, count: int, labels: tuple[LabelsLike, ...]) -> Arrays:
        """The weights."""
        return () if is_off(self.guidance) else (as_weights(experiment, self.guidance, labels[0], count),)

    def __call__(self, drift: Any, x: Any, *rest: Any, how: How) -> Solution:
        """`sampling.generate`."""
        *weights, label = rest
        weight = weights[0] if weights else None
        return sampling.generate(
            drift, x, label, how.solver, guidance=weight, denoise=self.denoise, times=how.times, span=how.span
        )


@dataclasses.dataclass(frozen=True)
class LocalErrors(Program):
    """The steps of an adaptive solve from noise, one control for the batch: y is (ends, errors), repeated for each example.

    There is a number for each step, and zeros after the last of them.
    """

    def __call__(self, drift: Any, x: Any, *rest: Any, how: How) -> Solution:
        """`Solver.local_errors`."""
        (label,) = rest
        ends, errors, solution = how.solver.local_errors(as_field(drift), x, *how.span, args=label)
        repeated = lambda each: jnp.broadcast_to(each, (len(x), *each.shape))  # noqa: E731
        return solution._replace(y=(repeated(ends), repeated(errors)))


@dataclasses.dataclass(frozen=True)
class Encode(Program):
    """Carries data at t = 1 to latents at t = 0 by the ODE; times descend."""

    def __call__(self, drift: Any, x: Any, *rest: Any, how: How) -> Solution:
        """`sampling.encode`."""
        (label,) = rest
        return sampling.encode(drift, x, label, how.solver, times=how.times, span=how.span)


@dataclasses.dataclass(frozen=True)
class Translate(Program):
    """Translates examples from a source class to a target class, the two labels of each.

    Attributes:
        method: "latent" encodes with the source class and decodes with the target class; "difference" is the paper's eq. 20.
        inverse: undo the translation from source to target: for "difference" by the same ODE from t = 1 to 0, for "latent" by
            translating back.
    """

    method: str = "latent"
    inverse: bool = False

    num_labels = 2

    def of(self, experiment: Experiment) -> Program:
        """Refuses an unconditional model and an unknown method."""
        if not experiment.num_classes:
            raise UserError(
                "an unconditional model cannot translate: it has no classes. Train with config.model.conditional = True"
            )
        if self.method not in sampling.TRANSLATIONS:
            names = ", ".join(sampling.TRANSLATIONS)
            raise UserError(f"unknown translation method {self.method!r}, expected one of {names}")
        if self.method not in sampling.methods_by(experiment.solver):
            raise UserError(
                f"method 'difference' solves an ODE of two drifts, where config.solver.method {experiment.solver.method!r} "
                "follows that of one: take 'latent', or the method 'dopri5'"
            )
        return self

    def __call__(self, drift: Any, x: Any, *rest: Any, how: How) -> Solution:
        """The function of `sampling.TRANSLATIONS`."""
        source, target = rest
        solve = sampling.TRANSLATIONS[self.method].solve
        if self.inverse and self.method == "latent":
            source, target = target, source
        more = {"inverse": True} if self.inverse and self.method == "difference" else {}
        return solve(drift, x, source, target, how.solver, times=how.times, span=how.span, **more)


@dataclasses.dataclass(frozen=True)
class Sample(Program):
    """Solves by the config's sampler, which draws noise on the way.

    Attributes:
        keys: data of a key for each example (`sampling.sample_keys`).
        guidance: as of `Generate`.
        backwards: from data to the source, by euler_maruyama.
        sampler: the model's.
    """

    keys: Any
    guidance: ArrayLike | None = None
    backwards: bool = False
    sampler: Sampler = Sampler()

    @property
    def advice(self) -> str:
        """About the sampler."""
        return (
            f"the samples of {self.sampler.name} are not finite. Train longer, raise config.sampler.num_steps or margin, or "
            "lower config.sampler.noise or snr"
        )

    @property
    def kind(self) -> Program:
        """The program without the keys and the weights."""
        return Sample(None, None if is_off(self.guidance) else 0.0, self.backwards, self.sampler)

    def of(self, experiment: Experiment) -> Program:
        """The program with the model's sampler; only euler_maruyama also goes backwards."""
        name = experiment.sampler.name
        if experiment.sampler.is_ode or (self.backwards and name != "euler_maruyama"):
            raise UserError(
                f"config.sampler.name is {name!r}, expected 'euler_maruyama', the SDE that goes both ways; by the ODE decode and "
                "encode do"
            )
        return dataclasses.replace(self, sampler=experiment.sampler)

    def arrays(self, experiment: Experiment, count: int, labels: tuple[LabelsLike, ...]) -> Arrays:
        """The weights and the keys."""
        weights = () if is_off(self.guidance) else (as_weights(experiment, self.guidance, labels[0], count),)
        return (*weights, np.asarray(self.keys))

    def __call__(self, drift: Any, x: Any, *rest: Any, how: How) -> Solution:
        """`sampling.sample_stochastically`."""
        *weights, keys, label = rest
        span = self.sampler.span(drift.path)
        predict: Any = drift.predict
        if weights:
            predict = lambda kind, x, t, c: guided(functools.partial(drift.predict, kind))(x, t, c)  # noqa: E731
        condition = (label, weights[0]) if weights else label
        with jax.default_matmul_precision(how.solver.precision):
            return sampling.sample_stochastically(
                predict, drift.path, x, condition, keys, self.sampler, span=span[::-1] if self.backwards else span
            )


@dataclasses.dataclass(frozen=True)
class LogLikelihood(Program):
    """Log densities in nats by the ODE: y is (log densities, latents, the former's standard errors over probes).

    The errors are NaN with one probe and 0 with the exact divergence.

    Attributes:
        key: of Hutchinson's probes, which share nothing with noise of the same key; jax.random.key(0) where none is given.
        probe: "rademacher" or "gaussian" for Hutchinson's estimate, unbiased but noisy for a single image; "exact" for the whole
            trace.
        probes: of each image, of whose estimates the mean is taken.
        time: of states on the way, whose density at that t is asked for; None: they are data.
        generating: from points at t = 0 instead: y is (log densities, images, errors).
        prior_scale: of the model's path.
    """

    key: PRNGKey | None = None
    probe: str = "rademacher"
    probes: int = 1
    time: float | None = None
    generating: bool = False
    prior_scale: float = 1.0

    @property
    def kind(self) -> Program:
        """The program without the key."""
        return dataclasses.replace(self, key=None)

    def of(self, experiment: Experiment) -> Program:
        """Refuses a source that is no noise, and probes and a time that cannot be."""
        path = experiment.path
        if not path.gaussian_source:
            raise UserError("this model has no likelihood: its source is not Gaussian")
        if experiment.solver.method in OF_ONE_DRIFT:
            raise UserError(
                f"likelihoods integrate more than the drift, which config.solver.method {experiment.solver.method!r} is of: take "
                "'dopri5'"
            )
        if self.probe not in PROBES:
            raise UserError(f"unknown probe {self.probe!r}, expected one of {', '.join(PROBES)}")
        if self.probes < 1 or (self.probe == "exact" and self.probes > 1):
            one = "1, the exact divergence needs none" if self.probe == "exact" else "at least 1"
            raise UserError(f"got {self.probes} probes, expected {one}")
        if self.time is not None and not path.t_min < self.time <= 1.0:
            raise UserError(f"time is {self.time}, expected one from {path.t_min} (exclusive) to 1")
        time = None if self.time is None else float(self.time)
        return dataclasses.replace(self, time=time, prior_scale=path.prior_scale)

    def arrays(self, experiment: Experiment, count: int, labels: tuple[LabelsLike, ...]) -> Arrays:
        """The probes."""
        if self.probe == "exact":
            return ()
        key, shape = jax.random.key(0) if self.key is None else self.key, experiment.spec.shape
        draw = jax.jit(lambda key, indices: draw_probes(key, indices, shape, self.probe, self.probes))
        return (np.asarray(draw(key, jnp.arange(count))),)

    def __call__(self, drift: Any, x: Any, *rest: Any, how: How) -> Solution:
        """The functions of likelihood.py."""
        *probes, label = rest
        span = how.span if self.time is None else (how.span[0], min(self.time, how.span[1]))
        solve = generate_with_likelihood if self.generating else log_likelihood
        probe = probes[0] if probes else None
        return solve(drift, x, label, how.solver, probes=probe, span=span, prior_scale=self.prior_scale)


@dataclasses.dataclass(frozen=True)
class FormulaDensity(Program):
    """Log densities from scores alone (`density_formula.py`): y is (log densities, standard errors, shares for its `tail`).

    Attributes:
        key: of levels and noise; jax.random.key(0) where none is given.
        keys: data of a key for each image in place of `key`: the same key draws the same levels and noise.
        formula: how the integral is estimated.
        reference: a Gaussian like the data: the more alike, the smaller the error.
        table: of levels "tabulated".
    """

    key: PRNGKey | None = None
    keys: Any = None
    formula: DensityFormula = DensityFormula()
    reference: Reference = Reference()
    table: LevelTable | None = None

    @property
    def advice(self) -> str:
        """About the network."""
        return _ESTIMATE

    @property
    def kind(self) -> Program:
        """One for every number of calls, and for references and tables of the same shapes."""
        formula = dataclasses.replace(self.formula, num_calls=self.formula.unit)
        return FormulaDensity(formula=formula)

    def of(self, experiment: Experiment) -> Program:
        """Refuses a path without a score."""
        path = experiment.path
        if not (isinstance(path, AffinePath) and path.gaussian_source):
            raise UserError("this model has no density by scores: its source is not Gaussian")
        return self

    def arrays(self, experiment: Experiment, count: int, labels: tuple[LabelsLike, ...]) -> Arrays:
        """The number of levels, and the keys."""
        return np.full(count, self.formula.num_levels, np.int32), _keys(self.keys, self.key, "formula", count)

    @property
    def constants(self) -> PyTree:
        """Reference and table."""
        on_host = lambda record: type(record)(*(np.asarray(v, np.float32) for v in record))  # noqa: E731
        return on_host(self.reference), None if self.table is None else on_host(self.table)

    def __call__(self, drift: Any, x: Any, *rest: Any, how: How) -> Solution:
        """`density_formula.formula_log_density`."""
        counts, keys, label = rest
        reference, table = how.constants
        more = {"reference": reference, "table": table, "num_levels": counts[0]}
        with jax.default_matmul_precision(how.solver.precision):
            return formula_log_density(drift.predict, drift.path, x, label, keys, self.formula, **more)


@dataclasses.dataclass(frozen=True)
class ChainBound(Program):
    """DDPM's variational bound (`chain_bound.py`): y is (bounds in nats, standard errors).

    The images are as the model was trained on them, at their levels or dequantized: the bound is of the levels' probability, or
    of a density on [-1, 1]; of points it is of a density.

    Attributes:
        key: of steps and noise; jax.random.key(0) where none is given.
        variance, num_calls, replicates: as there.
        cells: of the model's data.
    """

    key: PRNGKey | None = None
    variance: str = "posterior"
    num_calls: int | None = None
    replicates: int = 1
    cells: Cells = Cells()

    @property
    def advice(self) -> str:
        """About the network."""
        return _ESTIMATE

    @property
    def kind(self) -> Program:
        """The program without the key."""
        return dataclasses.replace(self, key=None)

    def of(self, experiment: Experiment) -> Program:
        """Refuses another path than DDPM's."""
        if not experiment.path.is_chain:
            raise UserError("a bound by the chain needs DDPM's path: config.path.name is not 'ddpm'")
        of_levels = not (experiment.spec.is_points or experiment.data.dequantize)
        return dataclasses.replace(self, cells=Cells.of(experiment.spec.levels) if of_levels else Cells())

    def arrays(self, experiment: Experiment, count: int, labels: tuple[LabelsLike, ...]) -> Arrays:
        """The keys."""
        return (_keys(None, self.key, "chain", count),)

    def __call__(self, drift: Any, x: Any, *rest: Any, how: How) -> Solution:
        """`chain_bound.chain_bound`."""
        keys, label = rest
        more = {
            "cells": self.cells,
            "variance": self.variance,
            "num_calls": self.num_calls,
            "replicates": self.replicates,
        }
        with jax.default_matmul_precision(how.solver.precision):
            return chain_bound(drift.predict, drift.path, x, label, keys, **more)


def _keys(keys: Any, key: PRNGKey | None, draw: str, count: int) -> np.ndarray:
    """Data of a key for each example, by default of the draw of that name."""
    if keys is not None:
        return np.asarray(keys)
    named = key_of(jax.random.key(0) if key is None else key, draw)
    return np.asarray(sampling.sample_keys(named, np.arange(count)))
