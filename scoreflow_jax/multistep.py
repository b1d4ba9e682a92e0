"""Linear multistep methods: one call of the field a step, whatever their order, by remembering the calls before.

Between the last times the field is taken for a polynomial, which is integrated to the next time. Written with z = (u - u_k) / h
from the last time to the next, by Newton's divided differences over the nodes z = 0, z1, z2 behind it,

    (1)  m(z) = m_0 + m[0, z1] z + m[0, z1, z2] z (z - z1),
    (2)  y_next = base + scale (m[0, z1] J_1 + m[0, z1, z2] (J_2 - z1 J_1)),    J_j = h integral of kernel(z) z^j dz,

and the methods differ in what they take for a polynomial, and of what:

**Adams-Bashforth**: the drift m = f itself, of u = t; base = y + h f, J_j = h / (j + 1), scale 1. Of any field. The second order
begins with Euler's step, as it may; the third corrects the state after the first step by the trapezoidal rule, once the second
slope is known, which was going to be computed anyway.

**DPM-Solver++** (Lu et al. 2022, arXiv:2211.01095, algorithm 2): the data that the drift expects, m = E[x1 | x_t], of
u = log(alpha / sigma), half the log signal-to-noise ratio. With it held fixed a step goes along the path itself,
base = alpha(s) m + sigma(s) E[x0 | x_t]; its change enters with kernel e^(-h (1 - z)) and scale alpha(s). On the linear path the
base is Euler's step. 2M takes J_0 / 2 for J_1.

**UniPC** (Zhao et al. 2023, arXiv:2302.04867, B_2 of section 3): the same, and when the next time's m is known (of the state as
it was predicted), it becomes one more node, z = 1, and corrects that state before the next step. Order 2 predicts as 2M does; a
first step is corrected with J_0 / 2, as the authors' code has it.

At an end without noise or without data u is infinite. A step from or to it is of the first order, and it is no node of other
steps; so is the last step of samplers in use. Backwards the first step is not corrected, since the correction is infinite there.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from scoreflow_jax.grids import Levels, Steps
from scoreflow_jax.typing import PyTree, Time


class Method(NamedTuple):
    """A multistep method.

    Attributes:
        order: of the steps, once there are as many calls before.
        of_data: whether the expected data are the polynomial, of log(alpha / sigma); else the field is, of t.
        corrected: how many of the states are corrected, from the first on; None: all of them.
        halved: whether J_0 / 2 stands for J_1 in predictions of order 2 and corrections of order 1.
    """

    order: int
    of_data: bool
    corrected: int | None
    halved: bool


METHODS = {
    "ab2": Method(2, False, 0, False),
    "ab3": Method(3, False, 1, False),
    "dpmpp_2m": Method(2, True, 0, True),
    "unipc2": Method(2, True, None, True),
    "unipc3": Method(3, True, None, True),
}
"""Every method by the name that `config.solver.method` gives it."""

_TERMS = 18  # of a series in h / n!, for |h| below 1


class _Node(NamedTuple):
    """A time, and its place on the axis of which the field is taken for a polynomial."""

    t: Time
    u: Array
    alpha: Array | None = None


def follow(
    method: Method,
    field: Callable[[Time, PyTree, PyTree], PyTree],
    y0: PyTree,
    steps: Steps,
    *,
    args: PyTree = None,
    path: Levels | None = None,
    times: Any = None,
) -> tuple[PyTree, PyTree, Int[Array, ""]]:
    """Solves dy/dt = field(t, y, args) by so many steps, each one call of the field.

    Args:
        method: of `METHODS`.
        field: of a scalar t, a state and args.
        y0: a pytree of arrays with the batch first.
        steps: the times at which steps meet.
        args: passed to the field.
        path: whose velocity the field is, if the method is of data.
        times: where to keep the state on the way, in the order of integration; they cost no calls.

    Returns:
        The state at the end, states at those times or None, and the number of calls.
    """
    rule = _Rule(method, path)

    def step(k: Array, carry: tuple[PyTree, PyTree, PyTree]) -> tuple[PyTree, PyTree, PyTree]:
        """From the k-th time, of which the state is predicted, to the next."""
        guess, past, kept = carry
        # Those before the first are never used.
        last, *before = (rule.node(steps(jnp.maximum(k - back, 0))) for back in range(4))
        slope = field(last.t, guess, args)
        value = rule.value(slope, guess, last)
        y = rule.correct(k, guess, value, past, last, before)

        def predict(s: Time) -> PyTree:
            """The state at a later time."""
            return rule.predict(k, y, guess, slope, value, past, (last, *before), rule.node(s))

        if times is not None:
            kept = jax.vmap(
                lambda s, old: jax.tree.map(functools.partial(jnp.where, _lies(s, steps, k)), predict(s), old)
            )(times, kept)
        return predict(steps(k + 1)), (value, *past[:-1]), kept

    nothing = jax.tree.map(jnp.zeros_like, y0)
    kept = None if times is None else jax.tree.map(lambda y: jnp.zeros((len(times), *y.shape), y.dtype), y0)
    count = jnp.asarray(steps.count, jnp.int32)
    y, _, kept = jax.lax.fori_loop(0, count, step, (y0, (nothing,) * 3, kept))
    return y, kept, count


def _lies(s: Time, steps: Steps, k: Array) -> Array:
    """Whether a time lies in the k-th step, its beginning and its end included."""
    a, b = steps(k), steps(k + 1)
    return (s >= jnp.minimum(a, b)) & (s <= jnp.maximum(a, b))


class _Rule:
    """A method on a path."""

    def __init__(self, method: Method, path: Levels | None) -> None:
        assert path is not None or not method.of_data, "a method of data needs the path: `Solver.along`"
        self.method, self.path = method, path

    def node(self, t: Time) -> _Node:
        """A time with its place."""
        if not self.method.of_data:
            return _Node(t, t)
        assert self.path is not None
        alpha, sigma = jnp.abs(self.path.alpha(t)), jnp.abs(self.path.noise_std(t))
        # Of weights below float32's rounding of 1 nothing is left.
        level = lambda x: jnp.where(x < 1e-7, -jnp.inf, jnp.log(jnp.maximum(x, 1e-7)))  # noqa: E731
        return _Node(t, level(alpha) - level(sigma), self.path.alpha(t))

    def value(self, slope: PyTree, y: PyTree, at: _Node) -> PyTree:
        """What is taken for a polynomial, m."""
        return self._converted(slope, y, at, "data") if self.method.of_data else slope

    def _converted(self, slope: PyTree, y: PyTree, at: _Node, wanted: str) -> PyTree:
        assert self.path is not None
        convert = functools.partial(self.path.convert, given="velocity", wanted=wanted)
        return jax.tree.map(lambda f, x: convert(f, x, jnp.broadcast_to(at.t, x.shape[:1])), slope, y)

    def predict(
        self,
        k: Array,
        y: PyTree,
        guess: PyTree,
        slope: PyTree,
        value: PyTree,
        past: tuple[PyTree, ...],
        nodes: tuple[_Node, ...],
        to: _Node,
    ) -> PyTree:
        """(2), from y at the last time, to another; slope and value are of the guess that y corrects."""
        last = nodes[0]
        if self.method.of_data:
            assert self.path is not None
            noise = self._converted(slope, guess, last, "noise")
            sigma = self.path.noise_std(last.t)
            inverse = jnp.where(sigma == 0, 0.0, 1.0 / jnp.where(sigma == 0, 1.0, sigma))  # y is the guess there
            weights = self.path.noise_std(to.t), to.alpha
            base = jax.tree.map(
                lambda m, e, x, g: weights[1] * m + weights[0] * (e + inverse * (x - g)), value, noise, y, guess
            )
        else:
            base = jax.tree.map(lambda x, f: x + (to.t - last.t) * f, y, slope)
        return _plus(base, self._change(k, value, past, nodes, to))

    def _change(
        self, k: Array, value: PyTree, past: tuple[PyTree, ...], nodes: tuple[_Node, ...], to: _Node
    ) -> list[tuple[Array, PyTree]]:
        """The terms of (2) after the base, each a weight and a pytree; weights of orders that are not to be had are 0."""
        h, z1, z2, use = self._geometry(k, nodes, to)
        scale = 1.0 if to.alpha is None else to.alpha
        j = _integrals(jnp.where(use[0], h, 1.0), exponential=self.method.of_data)
        first = j[0] / 2 if self.method.halved and self.method.order == 2 else j[1]
        by_two = _difference(value, past[0], -z1)
        terms = [(jnp.where(use[0], scale * first, 0.0), by_two)]
        if self.method.order > 2:
            # Of a third-order method's second step too, J_0 / 2, as the authors' code takes it.
            lower = j[0] / 2 if self.method.halved else j[1]
            terms = [(jnp.where(use[0], scale * jnp.where(use[1], j[1], lower), 0.0), by_two)]
            by_three = _difference(by_two, _difference(past[0], past[1], z1 - z2), -z2)
            terms.append((jnp.where(use[1], scale * (j[2] - z1 * j[1]), 0.0), by_three))
        return terms

    def correct(
        self, k: Array, guess: PyTree, value: PyTree, past: tuple[PyTree, ...], last: _Node, before: list[_Node]
    ) -> PyTree:
        """The state at the k-th time once m is known there: the prediction with (1) through one more node, z = 1."""
        if self.method.corrected == 0:
            return guess
        start = before[0]
        h, z1, z2, use = self._geometry(k - 1, tuple(before), last)
        possible = (k > 0) & jnp.isfinite(last.u) & (start.u < jnp.inf)
        if self.method.corrected is not None:
            possible &= k <= self.method.corrected
        scale = 1.0 if last.alpha is None else last.alpha
        j = _integrals(jnp.where(possible, h, 1.0), exponential=self.method.of_data)
        to_next = jax.tree.map(jnp.subtract, value, past[0])  # m[0, 1]
        alone = j[0] / 2 if self.method.halved else j[1]
        terms = [(jnp.where(possible & ~use[0], scale * alone, 0.0), to_next)]
        if self.method.corrected is None:
            # m[0, z1, 1], whose basis is z (z - z1), in place of what the prediction had.
            back = _difference(past[0], past[1], -z1)
            by_three = _difference(to_next, back, 1.0 - z1)
            two = possible & use[0] & ~use[1]
            terms += [
                (jnp.where(two, scale * (j[2] - z1 * j[1]), 0.0), by_three),
                (jnp.where(two, scale * (j[1] - j[0] / 2), 0.0), back),
            ]
            further = _difference(back, _difference(past[1], past[2], z1 - z2), -z2)  # m[0, z1, z2]
            by_four = _difference(by_three, further, 1.0 - z2)
            basis = j[3] - (z1 + z2) * j[2] + z1 * z2 * j[1]
            terms.append((jnp.where(possible & use[1], scale * basis, 0.0), by_four))  # of order 3 alone
        return _plus(guess, terms)

    def _geometry(
        self, k: Array, nodes: tuple[_Node, ...], to: _Node
    ) -> tuple[Array, Array, Array, tuple[Array, Array]]:
        """h, z1, z2 of a step from nodes[0], and whether orders 2 and 3 are to be had; 1 and -1 where they are not."""
        last, first, second = nodes[:3]
        there = jnp.isfinite(last.u) & jnp.isfinite(to.u)
        two = (k >= 1) & there & jnp.isfinite(first.u) & (first.u != last.u) & (self.method.order >= 2)
        three = (k >= 2) & two & jnp.isfinite(second.u) & (second.u != first.u) & (self.method.order >= 3)
        h = to.u - last.u
        still = h == 0  # a state that is kept at the very beginning of a step
        safe = jnp.where(still | ~there, 1.0, h)
        z1 = jnp.where(two & ~still, (first.u - last.u) / safe, -1.0)
        z2 = jnp.where(three & ~still, (second.u - last.u) / safe, -2.0)
        return h, z1, z2, (two & ~still, three & ~still)


def _integrals(h: Array, *, exponential: bool) -> list[Array]:
    """J_0 to J_3 of (2)."""
    if not exponential:
        return [h / (j + 1) for j in range(4)]
    # By parts, J_j = 1 - j J_(j-1) / h, which loses digits where h is small; there the series of e^(-h (1 - z)).
    near = jnp.abs(h) < 1.0
    far, small = jnp.where(near, 1.0, h), jnp.where(near, h, 0.0)
    exact = [-jnp.expm1(-h)]
    found = [exact[0]]
    for j in range(1, 4):
        exact.append(1.0 - j * exact[-1] / far)
        series = sum(
            (-1) ** n * small ** (n + 1) * (math.factorial(j) / math.factorial(j + n + 1)) for n in range(_TERMS)
        )
        found.append(jnp.where(near, series, exact[-1]))
    return found


def _difference(a: PyTree, b: PyTree, length: Array) -> PyTree:
    """A divided difference, (a - b) / length."""
    return jax.tree.map(lambda x, y: (x - y) / length, a, b)


def _plus(y: PyTree, terms: list[tuple[Array, PyTree]]) -> PyTree:
    """y + the sum of weights times pytrees."""
    for weight, tree in terms:
        y = jax.tree.map(lambda x, d, w=weight: x + w * d, y, tree)
    return y
