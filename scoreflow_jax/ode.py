"""Solves ODEs over any pytree state. The only module that imports diffrax.

Published figures of this field come from scipy's RK45, whose step control differs from diffrax's: it chooses the first
step from the field (Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, II.4), shrinks after accepted
steps too, and takes an error norm over the whole batch. `ScipyStepControl` is that rule for diffrax's solvers; with
Dopri5, which is RK45's tableau, both make the same steps up to rounding.

NFE is counted where it is spent, not estimated: every field evaluation of the step control and of the solver's stages,
rejected steps included. For the same steps of Dopri5 and Bosh3 that is scipy's count plus one: diffrax computes the first stage
of the first step anew, which scipy takes from the choice of that step's size. It does so at each trial of the first step, so
that each time it is rejected costs one more.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from scoreflow_jax import multistep
from scoreflow_jax.grids import Levels, Steps
from scoreflow_jax.settings.fields import build_section, declared
from scoreflow_jax.settings.solve import OF_DATA, WITHOUT_ESTIMATE, Grid, Method, Preset, SolverFields, preset_values
from scoreflow_jax.typing import PyTree, Time

METHODS: dict[Method, type[diffrax.AbstractSolver]] = {
    "euler": diffrax.Euler,
    "heun": diffrax.Heun,
    "midpoint": diffrax.Midpoint,
    "bosh3": diffrax.Bosh3,
    "dopri5": diffrax.Dopri5,
    "tsit5": diffrax.Tsit5,
    "dopri8": diffrax.Dopri8,
}
"""Every Runge-Kutta method by the name that `config.solver.method` gives it; Euler has no error estimate.

Other names stand for multistep.py's methods, and "flow_map" for sampling/jumps.py."""

ERROR_FACTORS = {"dopri5": 1.5}
"""What to multiply a method's error estimate by to get its authors' own. diffrax embeds in Dopri5 another fourth-order
solution, whose difference is exactly 2/3 of Dormand and Prince's (1/60 in place of 1/40 at the last stage, and so on); scipy and
the published NFEs use theirs."""

ERROR_IF_SMALLER = 1e-6
"""A rejected step shorter than this ends the solve: float32 times near 1 are 6e-8 apart, and a field of NaN would
otherwise be tried until max_steps."""

VectorField = Callable[[Time, PyTree, PyTree], PyTree]
"""field(t, y, args) -> dy/dt; t is a scalar, y and args pytrees whose leaves have the batch first."""


class Solution(NamedTuple):
    """The end of an ODE solve and what it cost.

    Attributes:
        y: the state at t1.
        path: states at the times asked for, stacked in front; None if none were asked for.
        num_evaluations: calls of the field. A scalar; (batch,) under per-sample control, where the network was in fact
            called max(num_evaluations) times on the whole batch.
        num_rejected: steps tried and thrown away, shaped likewise.
        succeeded: whether t1 was reached with finite values, shaped likewise.
    """

    y: PyTree
    path: PyTree
    num_evaluations: Int[Array, "*batch"]
    num_rejected: Int[Array, "*batch"]
    succeeded: Bool[Array, "*batch"]

    @classmethod
    def by_calls(cls, y: PyTree, calls: int | Array, result: Array) -> "Solution":
        """Makes a solution of what something other than a solver gave; it succeeded if `result`, of y, is finite.

        Args:
            y: what it gave.
            calls: how many network calls that took.
            result: the part of y that has to be finite.
        """
        count = jnp.asarray(calls, jnp.int32)
        return cls(y, None, count, jnp.zeros_like(count), jnp.isfinite(result).all())


def rms_norm(tree: PyTree, rows: Int[Array, ""] | None = None) -> Float[Array, ""]:
    """Root mean square over all numbers of a pytree, scipy's norm of the flattened batch.

    Args:
        tree: arrays with the batch first.
        rows: how many of the batch count, the first ones; None: all. Those that a batch is filled up with then change nothing.
    """
    leaves = jax.tree.leaves(tree)
    if rows is None:
        return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in leaves) / sum(leaf.size for leaf in leaves))
    squares = [jnp.sum(jnp.square(leaf), axis=tuple(range(1, leaf.ndim))) for leaf in leaves]
    total = sum(jnp.sum(jnp.where(jnp.arange(len(s)) < rows, s, 0.0)) for s in squares)
    return jnp.sqrt(total / (rows * sum(leaf.size // len(leaf) for leaf in leaves)))


class _Tally(NamedTuple):
    """The state of the step control."""

    num_tried: Int[Array, ""]
    num_accepted: Int[Array, ""]
    tried_until_first: Int[Array, ""]  # steps tried up to and including the first accepted one
    last_rejected: Bool[Array, ""]
    ends: Float[Array, " recorded"]  # of accepted steps, and their errors, as many as are recorded
    errors: Float[Array, " recorded"]


class ScipyStepControl(diffrax.AbstractAdaptiveStepSizeController):
    """scipy.integrate.RK45's choice of steps, counting as it goes.

    A step of error e (RMS over the batch of error / (atol + rtol max(|y0|, |y1|))) is accepted if e < 1; the next step is
    the last one times 0.9 e^(-1/order), within [0.2, 10], and not longer right after a rejection.
    """

    rtol: Any
    atol: Any
    norm: Any = rms_norm
    error_factor: Any = 1.0
    recorded: Any = 0
    direction: Any = 1

    def wrap(self, direction: Any) -> "ScipyStepControl":
        """Remembers the sign of time: diffrax integrates forwards in direction * t."""
        return dataclasses.replace(self, direction=direction)

    def init(
        self, terms: Any, t0: Any, t1: Any, y0: PyTree, dt0: Any, args: PyTree, func: Any, error_order: Any
    ) -> tuple[Any, _Tally]:
        """Hairer's first step: two evaluations of the field, a first one for its size and one for its change."""
        del dt0
        scale = jax.tree.map(lambda y: self.atol + self.rtol * jnp.abs(y), y0)
        relative = lambda tree: self.norm(jax.tree.map(jnp.divide, tree, scale))  # noqa: E731
        f0 = func(terms, t0, y0, args)
        size, slope = relative(y0), relative(f0)
        h0 = jnp.where((size < 1e-5) | (slope < 1e-5), 1e-6, 0.01 * size / jnp.maximum(slope, 1e-30))
        h0 = jnp.minimum(h0, t1 - t0)
        y1 = jax.tree.map(lambda y, f: y + h0 * self.direction * f, y0, f0)
        f1 = func(terms, t0 + h0, y1, args)
        curvature = relative(jax.tree.map(jnp.subtract, f1, f0)) / h0
        steepest = jnp.maximum(slope, curvature)
        h1 = jnp.where(
            steepest <= 1e-15,
            jnp.maximum(1e-6, 1e-3 * h0),
            (0.01 / jnp.maximum(steepest, 1e-15)) ** (1.0 / error_order),
        )
        step = jnp.minimum(jnp.minimum(100.0 * h0, h1), t1 - t0)
        step = jnp.where(jnp.isfinite(step), step, 1e-3)  # a field of NaN: let the first steps fail by rejection
        zero = jnp.zeros((), jnp.int32)
        none = jnp.zeros((self.recorded,))
        return t0 + step, _Tally(zero, zero, zero, jnp.zeros((), bool), none, none)

    def adapt_step_size(
        self,
        t0: Any,
        t1: Any,
        y0: PyTree,
        y1_candidate: PyTree,
        args: PyTree,
        y_error: PyTree,
        error_order: Any,
        controller_state: _Tally,
    ) -> tuple[Any, Any, Any, Any, _Tally, Any]:
        """Accepts or rejects the step from t0 to t1 and chooses the next."""
        del args
        relative_error = jax.tree.map(
            lambda error, a, b: (
                self.error_factor * error / (self.atol + self.rtol * jnp.maximum(jnp.abs(a), jnp.abs(b)))
            ),
            y_error,
            y0,
            y1_candidate,
        )
        error = self.norm(relative_error)
        accepted = error < 1.0
        factor = jnp.where(error == 0, 10.0, 0.9 * jnp.maximum(error, 1e-30) ** (-1.0 / error_order))
        factor = jnp.where(jnp.isfinite(factor), jnp.clip(factor, 0.2, 10.0), 0.2)
        factor = jnp.where(accepted & controller_state.last_rejected, jnp.minimum(factor, 1.0), factor)
        start = jnp.where(accepted, t1, t0)
        step = factor * (t1 - t0)
        too_small = ~accepted & (step < ERROR_IF_SMALLER)
        result = diffrax.RESULTS.where(too_small, diffrax.RESULTS.dt_min_reached, diffrax.RESULTS.successful)
        tally = _Tally(
            num_tried=controller_state.num_tried + 1,
            num_accepted=controller_state.num_accepted + accepted,
            tried_until_first=controller_state.tried_until_first + (controller_state.num_accepted == 0),
            last_rejected=~accepted,
            ends=self._noted(controller_state.ends, accepted, controller_state, t1),
            errors=self._noted(controller_state.errors, accepted, controller_state, error),
        )
        return accepted, start, start + step, False, tally, result

    def _noted(self, kept: Array, accepted: Array, tally: _Tally, value: Array) -> Array:
        """The record with one more, if this step was accepted and there is room."""
        if not self.recorded:
            return kept
        place = jnp.where(accepted, tally.num_accepted, self.recorded)
        return kept.at[place].set(value, mode="drop")


class _StepTo(diffrax.AbstractStepSizeController):
    """Steps between given times, whose number may be traced: diffrax's own StepTo has them in an array of fixed length."""

    steps: Steps
    direction: Any = 1

    def wrap(self, direction: Any) -> "_StepTo":
        """Remembers the sign of time."""
        return dataclasses.replace(self, direction=direction)

    def init(
        self, terms: Any, t0: Any, t1: Any, y0: PyTree, dt0: Any, args: PyTree, func: Any, error_order: Any
    ) -> tuple[Any, Int[Array, ""]]:
        """The end of the first step, and its number."""
        del terms, t0, t1, y0, dt0, args, func, error_order
        return self.direction * self.steps(1), jnp.int32(1)

    def adapt_step_size(
        self,
        t0: Any,
        t1: Any,
        y0: PyTree,
        y1_candidate: PyTree,
        args: PyTree,
        y_error: PyTree,
        error_order: Any,
        controller_state: Int[Array, ""],
    ) -> tuple[Any, Any, Any, Any, Int[Array, ""], Any]:
        """Goes on to the end of the next."""
        del t0, y0, y1_candidate, args, y_error, error_order
        after = controller_state + 1
        return True, t1, self.direction * self.steps(after), False, after, diffrax.RESULTS.successful


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solver(SolverFields):
    """How ODEs are solved: by default scipy's RK45 at 1e-5, the paper's choice (section 4.1)."""

    rows = None
    """How many of a batch count in its step control (`rms_norm`): no field, but a number that a compiled program is given."""

    parts = None
    """The times of the grid "measured" (`grids.equal_parts`), likewise."""

    path: Levels | None = dataclasses.field(default=None, compare=False, repr=False)
    """Whose velocity is solved for, where the method or the grid asks for noise levels: `along`."""

    @classmethod
    def of_preset(cls, name: Preset, **fields: Any) -> "Solver":
        """The solver that `config.solver.preset` names, such as "fast"; fields that are given win.

        Raises:
            UserError: no such preset, or fields that do not go with it.
        """
        return build_section(cls, "solver", preset_values({**fields, "preset": name}, fields))

    @property
    def of_levels(self) -> bool:
        """Whether its method or its grid goes by the path's noise levels: then it has to be told the path."""
        return self.method in OF_DATA or self.grid == "edm"

    def along(self, path: Any) -> "Solver":
        """This solver on a path, whose noise levels a grid of EDM's or a method of data takes."""
        return self.with_numbers({"path": path})

    def steps(self, t0: float, t1: float) -> Steps:
        """The times between which its fixed steps are made.

        Raises:
            ValueError: its grid is measured, and nobody has.
        """
        if self.grid == "measured" and self.parts is None:
            raise ValueError("the grid 'measured' is that of a model, which measures it: solve by Model.with_solver")
        return Steps(self.num_steps, self.parts, t0, t1, self.grid, self.between, self.path)

    @property
    def numbers(self) -> dict[str, Any]:
        """What a compiled program takes as arguments: one program then solves at every tolerance, or in any number of steps."""
        steps = None if self.num_steps is None else np.int32(self.num_steps)
        parts = None if self.parts is None else np.asarray(self.parts, np.float32)
        return {"rtol": np.float32(self.rtol), "atol": np.float32(self.atol), "num_steps": steps, "parts": parts}

    @property
    def adaptive(self) -> "Solver":
        """This solver with steps by its tolerances, by dopri5 where its method has no error estimate."""
        method = "dopri5" if self.method in WITHOUT_ESTIMATE else self.method
        return dataclasses.replace(
            self, method=method, num_steps=None, between=(), corrections=0, grid="uniform", dtype="float32", preset=None
        )

    def jumps(self, count: int) -> "Solver":
        """So many equal jumps of a flow map in place of its steps, corrected as its own are."""
        return self.fixed("flow_map", count)

    def fixed(self, method: Method, count: int, grid: Grid = "uniform") -> "Solver":
        """So many steps of a method in place of its own."""
        most, corrections = max(count, self.max_steps), self.corrections if method == "flow_map" else 0
        more = {
            "between": (),
            "per_sample": False,
            "max_steps": most,
            "corrections": corrections,
            "grid": grid,
            "preset": None,
        }
        return dataclasses.replace(self, method=method, num_steps=count, **more)

    @property
    def stated(self) -> dict[str, Any]:
        """All fields, by which solves are told apart, without those that came after solves were kept where they say nothing."""
        later = {"between": (), "corrections": 0, "grid": "uniform", "dtype": "float32"}
        stated = {n: getattr(self, n) for n in declared(type(self)) if n != "preset"}  # what it stands for says it all
        return {n: value for n, value in stated.items() if n not in later or value != later[n]}

    @property
    def kind(self) -> "Solver":
        """The rest, equal for solvers that share a program."""
        steps = None if self.num_steps is None else len(self.between) + 1
        return dataclasses.replace(self, rtol=1.0, atol=1.0, num_steps=steps, path=None)

    def fixed_calls(self) -> Any:
        """The calls of the field that its fixed steps make, whose number may be traced."""
        assert self.num_steps is not None
        stages, fsal = _stages(self.method)
        return self.num_steps * (stages - fsal) + fsal

    def with_numbers(self, numbers: dict[str, Any]) -> "Solver":
        """This solver with the `numbers` of another that was checked: they may be arguments of a program being compiled."""
        other = copy.copy(self)
        for name, number in numbers.items():
            object.__setattr__(other, name, number)
        return other

    def solve(
        self,
        field: VectorField,
        y0: PyTree,
        t0: float,
        t1: float,
        *,
        args: PyTree = None,
        times: Float[Array, " times"] | None = None,
    ) -> Solution:
        """Solves dy/dt = field(t, y, args) from y0 at t0 to t1, forwards or backwards in time.

        Args:
            field: called as field(t, y, args) with a scalar t; sees the whole batch.
            y0: a pytree of arrays with the batch first.
            t0, t1: times in [0, 1]; t1 may be below t0.
            args: arrays with the batch first that the field needs, such as labels.
            times: where to keep the state on the way, in the order of integration.

        Returns:
            The solution. Nothing is raised for a failed solve: look at `succeeded`.

        Raises:
            ValueError: the method "flow_map", which needs more than a field, or a method of data without a path.
        """
        if self.method == "flow_map":
            raise ValueError("a flow map follows the ODE of its own drift only, not any field: see sampling/jumps.py")
        if self.method in OF_DATA and self.path is None:
            raise ValueError(f"{self.method} extrapolates the expected data of a path's velocity: see Solver.along")
        if self.method in multistep.METHODS:
            return self._by_several(field, y0, t0, t1, args, times)
        if not self.per_sample:
            return self._solve(field, y0, t0, t1, args, times)

        def one(y0: PyTree, args: PyTree) -> Solution:
            """Solves for one example, shown to the field as a batch of one."""
            add, drop = (functools.partial(jax.tree.map, f) for f in (lambda x: x[None], lambda x: x[0]))
            return self._solve(lambda t, y, a: drop(field(t, add(y), add(a))), y0, t0, t1, args, times)

        solution = jax.vmap(one)(y0, args)
        return solution._replace(path=jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), solution.path))

    def _by_several(self, field: VectorField, y0: PyTree, t0: float, t1: float, args: PyTree, times: Any) -> Solution:
        with jax.default_matmul_precision(self.precision):
            y, path, calls = multistep.follow(
                multistep.METHODS[self.method],
                jax.jit(field),
                y0,
                self.steps(t0, t1),
                args=args,
                path=self.path,
                times=times,
            )
        return Solution(y, path, calls, jnp.zeros_like(calls), _is_finite(y))

    def local_errors(
        self, field: VectorField, y0: PyTree, t0: float, t1: float, *, args: PyTree = None
    ) -> tuple[Float[Array, " steps"], Float[Array, " steps"], Solution]:
        """Solves by adaptive steps as `solve` does, for the whole batch, and keeps what they were.

        Returns:
            Times at which the accepted steps ended, and their errors in units of the tolerance, zeros after the last of them; and
            the solution, without a path.
        """
        control = dataclasses.replace(self._step_control(), recorded=self.max_steps)
        solution = self._integrate(field, y0, t0, t1, args, control, [diffrax.SubSaveAt(t1=True)])
        tally: Any = solution.controller_state
        direction = 1 if t1 > t0 else -1
        return direction * tally.ends, tally.errors, self._solution(solution)

    def _solve(self, field: VectorField, y0: PyTree, t0: float, t1: float, args: PyTree, times: Any) -> Solution:
        # Equal steps too: diffrax's own check the sign of the first by a callback, which cannot be lowered for TPU.
        control = self._step_control() if self.num_steps is None else _StepTo(self.steps(t0, t1))
        saves = [diffrax.SubSaveAt(t1=True)]
        if times is not None:
            saves.append(diffrax.SubSaveAt(ts=times))
        return self._solution(self._integrate(field, y0, t0, t1, args, control, saves))

    def _integrate(
        self,
        field: VectorField,
        y0: PyTree,
        t0: float,
        t1: float,
        args: PyTree,
        control: diffrax.AbstractStepSizeController,
        saves: list[diffrax.SubSaveAt],
    ) -> diffrax.Solution:
        """diffrax's solution."""
        with jax.default_matmul_precision(self.precision):
            return diffrax.diffeqsolve(
                # Traced once, not at each of the seven places where a solver's step calls it: half of the time to compile.
                diffrax.ODETerm(jax.jit(field)),
                METHODS[self.method](),
                t0=t0,
                t1=t1,
                dt0=None,
                y0=y0,
                args=args,
                saveat=diffrax.SaveAt(subs=saves, controller_state=True),
                stepsize_controller=control,
                max_steps=self.max_steps,
                # The default, an error callback, gathers the sharded result and cannot be lowered for TPU.
                throw=False,
            )

    def _solution(self, solution: diffrax.Solution) -> Solution:
        """Its end, states on the way and cost."""
        kept: Any = solution.ys
        ends, *paths = kept
        y = jax.tree.map(lambda x: x[0], ends)
        evaluations, rejected = self._count(solution.controller_state)
        return Solution(
            y=y,
            path=paths[0] if paths else None,
            num_evaluations=evaluations,
            num_rejected=rejected,
            succeeded=(solution.result == diffrax.RESULTS.successful) & _is_finite(y),
        )

    def _step_control(self) -> ScipyStepControl:
        counted = self.rows is not None and not self.per_sample
        norm = jax.tree_util.Partial(rms_norm, rows=self.rows) if counted else rms_norm
        factor = ERROR_FACTORS.get(self.method, 1.0)
        return ScipyStepControl(rtol=self.rtol, atol=self.atol, norm=norm, error_factor=factor)

    def _count(self, tally: Any) -> tuple[Array, Array]:
        """Field evaluations and rejected steps.

        A method of s stages costs s a step. One whose last stage is the next step's first (FSAL) costs s - 1, but has no
        such stage to reuse until a first step was accepted, so that each trial of the first step costs one more than scipy's.
        The adaptive control adds two for the first step's size.
        """
        if self.num_steps is not None:
            return jnp.asarray(self.fixed_calls(), jnp.int32), jnp.zeros((), jnp.int32)
        stages, fsal = _stages(self.method)
        cost = tally.num_tried * (stages - fsal) + fsal * tally.tried_until_first
        return 2 + cost, tally.num_tried - tally.num_accepted


def _stages(name: Any) -> tuple[int, bool]:
    """Calls of the field that a step takes, and whether the last of them is the next step's first."""
    method: Any = METHODS[name]() if name in METHODS else None
    if method is None or isinstance(method, diffrax.Euler):  # which has no tableau
        return 1, False
    return len(method.tableau.c) + 1, method.tableau.fsal


def _is_finite(tree: PyTree) -> Bool[Array, ""]:
    return jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()
