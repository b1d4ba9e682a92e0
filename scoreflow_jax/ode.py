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

from scoreflow_jax.settings.solve import WITHOUT_ESTIMATE, Method, SolverFields
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

The name "flow_map" stands for none of them but for sampling/jumps.py."""

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


class ScipyStepControl(diffrax.AbstractAdaptiveStepSizeController):
    """scipy.integrate.RK45's choice of steps, counting as it goes.

    A step of error e (RMS over the batch of error / (atol + rtol max(|y0|, |y1|))) is accepted if e < 1; the next step is
    the last one times 0.9 e^(-1/order), within [0.2, 10], and not longer right after a rejection.
    """

    rtol: Any
    atol: Any
    norm: Any = rms_norm
    error_factor: Any = 1.0
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
        return t0 + step, _Tally(zero, zero, zero, jnp.zeros((), bool))

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
        )
        return accepted, start, start + step, False, tally, result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solver(SolverFields):
    """How ODEs are solved: by default scipy's RK45 at 1e-5, the paper's choice (section 4.1)."""

    rows = None
    """How many of a batch count in its step control (`rms_norm`): no field, but a number that a compiled program is given."""

    @property
    def numbers(self) -> dict[str, Any]:
        """What a compiled program takes as arguments: one program then solves at every tolerance, or in any number of steps."""
        steps = None if self.num_steps is None else np.int32(self.num_steps)
        return {"rtol": np.float32(self.rtol), "atol": np.float32(self.atol), "num_steps": steps}

    @property
    def adaptive(self) -> "Solver":
        """This solver with steps by its tolerances, by dopri5 where its method has no error estimate."""
        method = "dopri5" if self.method in WITHOUT_ESTIMATE else self.method
        return dataclasses.replace(self, method=method, num_steps=None, between=(), corrections=0)

    def jumps(self, count: int) -> "Solver":
        """So many equal jumps of a flow map in place of its steps, corrected as its own are."""
        most = max(count, self.max_steps)
        return dataclasses.replace(
            self, method="flow_map", num_steps=count, between=(), per_sample=False, max_steps=most
        )

    @property
    def stated(self) -> dict[str, Any]:
        """All fields, by which solves are told apart, without those that came after solves were kept where they say nothing."""
        later = ("between", "corrections")
        return {n: getattr(self, n) for n in self.__dataclass_fields__ if n not in later or getattr(self, n)}

    @property
    def kind(self) -> "Solver":
        """The rest, equal for solvers that share a program."""
        steps = None if self.num_steps is None else len(self.between) + 1
        return dataclasses.replace(self, rtol=1.0, atol=1.0, num_steps=steps)

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
            ValueError: the method "flow_map", which needs more than a field.
        """
        if self.method == "flow_map":
            raise ValueError("a flow map follows the ODE of its own drift only, not any field: see sampling/jumps.py")
        if not self.per_sample:
            return self._solve(field, y0, t0, t1, args, times)

        def one(y0: PyTree, args: PyTree) -> Solution:
            """Solves for one example, shown to the field as a batch of one."""
            add, drop = (functools.partial(jax.tree.map, f) for f in (lambda x: x[None], lambda x: x[0]))
            return self._solve(lambda t, y, a: drop(field(t, add(y), add(a))), y0, t0, t1, args, times)

        solution = jax.vmap(one)(y0, args)
        return solution._replace(path=jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), solution.path))

    def _solve(self, field: VectorField, y0: PyTree, t0: float, t1: float, args: PyTree, times: Any) -> Solution:
        method = METHODS[self.method]()
        if self.num_steps is None:
            control, dt0 = self._step_control(), None
        else:
            control, dt0 = diffrax.ConstantStepSize(), (t1 - t0) / self.num_steps
        saves = [diffrax.SubSaveAt(t1=True)]
        if times is not None:
            saves.append(diffrax.SubSaveAt(ts=times))
        with jax.default_matmul_precision(self.precision):
            solution = diffrax.diffeqsolve(
                # Traced once, not at each of the seven places where a solver's step calls it: half of the time to compile.
                diffrax.ODETerm(jax.jit(field)),
                method,
                t0=t0,
                t1=t1,
                dt0=dt0,
                y0=y0,
                args=args,
                saveat=diffrax.SaveAt(subs=saves, controller_state=True),
                stepsize_controller=control,
                max_steps=self.max_steps,
                # The default, an error callback, gathers the sharded result and cannot be lowered for TPU.
                throw=False,
            )
        ends, *paths = solution.ys
        y = jax.tree.map(lambda x: x[0], ends)
        finite = jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(y)]).all()
        evaluations, rejected = self._count(solution.controller_state, method)
        return Solution(
            y=y,
            path=paths[0] if paths else None,
            num_evaluations=evaluations,
            num_rejected=rejected,
            succeeded=(solution.result == diffrax.RESULTS.successful) & finite,
        )

    def _step_control(self) -> ScipyStepControl:
        counted = self.rows is not None and not self.per_sample
        norm = jax.tree_util.Partial(rms_norm, rows=self.rows) if counted else rms_norm
        factor = ERROR_FACTORS.get(self.method, 1.0)
        return ScipyStepControl(rtol=self.rtol, atol=self.atol, norm=norm, error_factor=factor)

    def _count(self, tally: Any, method: Any) -> tuple[Array, Array]:
        """Field evaluations and rejected steps.

        A method of s stages costs s a step. One whose last stage is the next step's first (FSAL) costs s - 1, but has no
        such stage to reuse until a first step was accepted, so that each trial of the first step costs one more than scipy's.
        The adaptive control adds two for the first step's size.
        """
        if isinstance(method, diffrax.Euler):  # the one member that has no tableau
            stages, fsal = 1, False
        else:
            stages, fsal = len(method.tableau.c) + 1, method.tableau.fsal
        if self.num_steps is not None:
            cost = self.num_steps * (stages - fsal) + fsal
            return jnp.asarray(cost, jnp.int32), jnp.zeros((), jnp.int32)
        cost = tally.num_tried * (stages - fsal) + fsal * tally.tried_until_first
        return 2 + cost, tally.num_tried - tally.num_accepted
