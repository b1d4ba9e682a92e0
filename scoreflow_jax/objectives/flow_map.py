"""Flow maps: a network that is told two times and jumps along the ODE from one to the other, in either direction.

The mean velocity u of the ODE dx/dt = f(x, t, c) from t to s is where its solutions lead,

    (1)  X_{t,s}(x) = x + (s - t) u(x, t, s, c),        u(x, t, t, c) = f(x, t, c),

so that one network is the drift, where s = t, and the way in one call, where it is not. Three properties say the same of it:

    (2)  lagrangian   d/ds X_{t,s}(x) = f(X_{t,s}(x), s)                   the end of a jump moves by the drift there,
    (3)  eulerian     u = f(x, t) + (s - t) (d/dt + f . grad) u            the same end is reached from anywhere on the way,
    (4)  semigroup    u(x, t, s) = [u(x, t, r) + u(X_{t,r}(x), r, s)] / 2  two halves make the whole, r = (t + s) / 2.

(2) and (4): Boffi, Albergo and Vanden-Eijnden 2024 (arXiv:2406.07507) and 2025 (arXiv:2505.18825), whose self-distillation
takes the network's own drift for f; (3) is the MeanFlow identity of Geng et al. 2025 (arXiv:2505.13447), whose times run from
data to noise. Each is met exactly by the flow map of f and, together with f itself, by nothing else.

A stated share of the batch has s = t and trains the drift by the paper's loss; the other rows ask (2), (3) or (4) at x_t on the
path. What is compared with is held without gradient: f(X, s) in (2), the derivative in (3), both halves in (4). The derivatives
are jvps. In (2) the loss's gradient goes through the derivative too.

The residual of (2) and (4), and of (3) by the network's own velocity, is 0 at the exact map for every x, so that it may be
divided by its own size, which makes large and small jumps count alike (MeanFlow's adaptive weight, section 4.3). The drift's
residual is not 0 at the best drift, nor is that of (3) by x1 - x0: divided by its size the best would be another.

A trained run may be the teacher: its drift then stands for f in (2) and (3), and in place of x1 - x0 on the rows with s = t,
whose error is then 0 at the best too.

A network that is told a weight w of guidance jumps along the ODE of f(x, t, none) + w [f(x, t, c) - f(x, t, none)] (w of half of
the rows is 1), so that guided samples take one call too.

The two directions are two learned maps. (5) asks for each other's inverse:

    (5)  X_{s,t}(X) = x,        X = X_{t,s}(x) without gradient.
"""

import dataclasses
import fractions
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from scoreflow_jax.objectives.base import Objective, mean_square
from scoreflow_jax.objectives.path_constrained import PathConstrained
from scoreflow_jax.paths import per_example
from scoreflow_jax.paths.guidance import guided
from scoreflow_jax.settings.objective import FlowMapFields
from scoreflow_jax.typing import Condition, DriftFn, FlowMapFn, PerExample, State, Times

_LONGEST = 16  # rows of which a share has s = t


@dataclasses.dataclass(frozen=True)
class FlowMap(FlowMapFields, Objective):
    """The drift's loss on rows with s = t, and on the others one of (2) to (4) of the module, with (5) where it has a weight.

    Attributes:
        path: how x_t and its velocity come from x0 and x1.

    Raises:
        ValueError: (3) by x1 - x0 divided by its own size, whose best map is another, or beside a teacher.
    """

    two_times = True

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        if self.rule == "eulerian" and self.tangent == "conditional" and self.normalize:
            raise ValueError(
                "tangent is 'conditional', whose error is not 0 at the best map: set normalize to 0, or tangent to 'own'"
            )
        if self.tangent == "conditional" and self.teacher is not None:
            raise ValueError("tangent is 'conditional', but a teacher's velocity is known: set it to 'own'")

    @property
    def differentiates_time(self) -> bool:
        """By (3)."""
        return self.rule == "eulerian"

    @property
    def teacher_run(self) -> tuple[str | None, str | None]:
        """Its fields."""
        return self.teacher, self.teacher_sha256

    def __call__(
        self,
        drift: DriftFn,
        x0: State,
        x1: State,
        t: Times,
        label: Condition | None,
        z: State | None = None,
        s: Times | None = None,
        teacher: DriftFn | None = None,
        guidance: PerExample | None = None,
    ) -> PerExample:
        """Returns the loss of each example: some of every few rows have s = t, whatever s says (`jump_rows`).

        With a teacher its drift is f throughout, also in place of x1 - x0 where s = t. With weights the jumps are those of the
        guided ODE, whose drift is made of f with and without the label.

        Raises:
            ValueError: a batch that does not divide into that share and the rest, or guidance by a rule without the drift.
        """
        assert s is not None
        assert isinstance(drift, FlowMapFn)
        del z
        first, period = self._share(len(t))
        order = _order(s, period)
        own, others = order[:, :first], order[:, first:]
        of_drift = _rows(own, x0, x1, t, label)
        of_jumps = _rows(others, x0, x1, t, label, s, guidance)
        on_diagonal = self._drift(drift, teacher, *of_drift)
        off_diagonal = self.weight * self._jumps(drift, teacher or drift, *of_jumps)
        both = [on_diagonal.reshape(-1, first), off_diagonal.reshape(-1, period - first)]
        back = jnp.argsort(order, axis=1)
        return jnp.take_along_axis(jnp.concatenate(both, axis=1), back, axis=1).reshape(len(t))

    def jump_rows(self, s: Times) -> Bool[Array, " batch"]:
        """Which rows of a batch with these second times are jumps."""
        first, period = self._share(len(s))
        return (jnp.argsort(_order(s, period), axis=1) >= first).reshape(len(s))

    def _share(self, rows: int) -> tuple[int, int]:
        """How many of every how many rows have s = t."""
        share = fractions.Fraction(self.diagonal).limit_denominator(_LONGEST)
        if rows % share.denominator or not 0 < share < 1:
            raise ValueError(
                f"config.objective.diagonal is {self.diagonal:g}, {share.numerator} of every {share.denominator} rows, but "
                f"{rows} rows are taken at a time: make them a multiple of {share.denominator} (train.batch_size over "
                "train.microbatches), or diagonal 0.5"
            )
        return share.numerator, share.denominator

    def _drift(
        self, drift: FlowMapFn, teacher: DriftFn | None, x0: State, x1: State, t: Times, label: Condition | None
    ) -> PerExample:
        """The drift's error: of the paper's loss, or against the teacher with the same weight."""
        loss = PathConstrained(self.path, weight_exponent=self.weight_exponent)
        if teacher is None:
            return loss(drift, x0, x1, t, label)
        x = self.path.interpolant(t, x0, x1)
        residual = drift(x, t, label) - jax.lax.stop_gradient(teacher(x, t, label))
        return loss.weight_at(t) * mean_square(residual)

    def _jumps(
        self,
        drift: FlowMapFn,
        f: DriftFn,
        x0: State,
        x1: State,
        t: Times,
        label: Condition | None,
        s: Times,
        guidance: PerExample | None,
    ) -> PerExample:
        """The error of jumps from t to s."""
        if guidance is not None:
            if self.rule == "semigroup" or self.tangent == "conditional":
                raise ValueError(
                    "guidance is of a rule that asks for the drift: set config.objective.rule to 'lagrangian' and tangent to "
                    "'own', or config.model.most_guidance to 0"
                )
            drift, f = _Guided(drift, guidance), _guided(f, guidance)
        t = self._begin(t)
        x = self.path.interpolant(t, x0, x1)
        rule = {"lagrangian": self._lagrangian, "semigroup": self._semigroup, "eulerian": self._eulerian}[self.rule]
        residual, there = rule(drift, f, x, t, s, label, self.path.velocity(t, x0, x1))
        loss = self._normalized(mean_square(residual))
        if not self.reversal:
            return loss
        back = _jump(drift, jax.lax.stop_gradient(there), s, t, label) - x
        return loss + self.reversal * self._normalized(mean_square(back))

    def _begin(self, t: Times) -> Times:
        """Times drawn along the path, stretched until that share of evenly drawn ones is beyond its ends, and cut there.

        One call begins at an end. By (2) a jump asks nothing of those that begin elsewhere: what one call needs is trained there.
        """
        first, last = self.path.t_min, self.path.t_max
        along = ((t - first) / (last - first) - 0.5 * self.ends) / (1.0 - self.ends)
        return first + (last - first) * jnp.clip(along, 0.0, 1.0)

    def _normalized(self, square: PerExample) -> PerExample:
        """A square error divided by a power of itself, of which there is no gradient."""
        if not self.normalize:
            return square
        return square / jax.lax.stop_gradient(square + self.normalize_floor) ** self.normalize

    def _lagrangian(
        self, drift: FlowMapFn, f: DriftFn, x: State, t: Times, s: Times, label: Condition | None, velocity: State
    ) -> tuple[State, State]:
        """The residual of (2), and X."""
        del velocity
        there, slope = jax.jvp(lambda s: _jump(drift, x, t, s, label), (s,), (jnp.ones_like(s),))
        return slope - jax.lax.stop_gradient(f(jax.lax.stop_gradient(there), s, label)), there

    def _semigroup(
        self, drift: FlowMapFn, f: DriftFn, x: State, t: Times, s: Times, label: Condition | None, velocity: State
    ) -> tuple[State, State]:
        """The residual of (4), and X."""
        del velocity, f
        whole, half = drift.mean_velocity(x, t, s, label), 0.5 * (t + s)
        first = jax.lax.stop_gradient(drift.mean_velocity(x, t, half, label))
        middle = x + per_example(half - t, x) * first
        second = jax.lax.stop_gradient(drift.mean_velocity(middle, half, s, label))
        return whole - 0.5 * (first + second), x + per_example(s - t, x) * whole

    def _eulerian(
        self, drift: FlowMapFn, f: DriftFn, x: State, t: Times, s: Times, label: Condition | None, velocity: State
    ) -> tuple[State, State]:
        """The residual of (3), and X."""
        if self.tangent == "own":
            velocity = jax.lax.stop_gradient(f(x, t, label))
        u, change = jax.jvp(lambda x, t: drift.mean_velocity(x, t, s, label), (x, t), (velocity, jnp.ones_like(t)))
        target = velocity + per_example(s - t, x) * change
        return u - jax.lax.stop_gradient(target), x + per_example(s - t, x) * u


@dataclasses.dataclass(frozen=True)
class _Guided:
    """A map that is told these weights of its rows."""

    drift: FlowMapFn
    guidance: PerExample

    def __call__(self, x: State, t: Times, condition: Condition | None) -> State:
        """Its own guided drift."""
        return _guided(self.drift, self.guidance)(x, t, condition)

    def mean_velocity(
        self, x: State, t: Times, s: Times, condition: Condition | None, guidance: PerExample | None = None
    ) -> State:
        """u of the guided ODE."""
        del guidance
        return self.drift.mean_velocity(x, t, s, condition, self.guidance)


def _guided(f: DriftFn, guidance: PerExample) -> DriftFn:
    """The guided drift of these weights."""

    def f_w(x: State, t: Times, condition: Condition | None) -> State:
        """f(x, t, none) + w [f(x, t, c) - f(x, t, none)]."""
        both: Any = (condition, guidance)
        return guided(f)(x, t, both)

    return f_w


def _jump(drift: FlowMapFn, x: State, t: Times, s: Times, label: Condition | None) -> State:
    """X of (1)."""
    return x + per_example(s - t, x) * drift.mean_velocity(x, t, s, label)


def _order(s: Times, period: int) -> Int[Array, "groups period"]:
    """An order at random of every `period` neighbours, so that each device finds its rows among its own.

    By place alone a balanced batch, whose row i is of class i modulo the classes, would have classes without jumps. It is
    the order of later digits of the second times, of which the first ones say nothing.
    """
    return jnp.argsort(jnp.mod(s * 4096.0, 1.0).reshape(-1, period), axis=1)


def _rows(chosen: Int[Array, "groups rows"], *arrays: Array | None) -> list[Any]:
    """These of every few rows of each array."""
    groups, count = chosen.shape

    def cut(a: Array) -> Array:
        """Of one."""
        grouped = a.reshape(groups, -1, *a.shape[1:])
        index = chosen.reshape(groups, count, *[1] * (a.ndim - 1))
        return jnp.take_along_axis(grouped, index, axis=1).reshape(-1, *a.shape[1:])

    return [None if a is None else cut(a) for a in arrays]
