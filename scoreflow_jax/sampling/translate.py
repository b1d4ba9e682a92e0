"""Translation between two classes of one model, by two methods.

`latent` encodes with the source class from t = 1 to 0 and decodes with the target class from 0 to 1. It is exactly
reversible, and exact for Gaussian classes.

`difference` is the paper's (eq. 20): dx = [f(x, t, c2) - f(x, t, c1)] dt from t = 0 to 1, starting at the image. The proof of
theorem 3.2 merges two integrals that run along different trajectories, so the result is not that of `latent`: between
Gaussian classes N(m_c, s^2 I) it moves a point by k (m_2 - m_1) with k = integral over [0, 1] of 1 - t a(t),
a(t) = (t s^2 - (1 - t)) / ((1 - t)^2 + t^2 s^2), which is pi/4 at s = 1 where the right displacement is 1.
Nor is the translation with swapped labels its inverse; the same ODE from t = 1 to 0 is.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from scoreflow_jax.ode import Solution, Solver
from scoreflow_jax.sampling.flow import WHOLE, Span, as_field, encode, generate
from scoreflow_jax.settings.solve import OF_ONE_DRIFT
from scoreflow_jax.typing import Condition, DriftFn, State, Time


def translate_latent(
    drift: DriftFn,
    images: State,
    source: Condition,
    target: Condition,
    solver: Solver,
    *,
    times: Float[Array, " times"] | None = None,
    span: Span = WHOLE,
) -> Solution:
    """Encodes with the source labels and decodes with the target labels.

    Args:
        drift: the class-conditional drift.
        images: data at t = 1.
        source, target: labels of the images and of the result.
        solver: used for both legs.
        times: ascending; the states of both legs are kept at them, first descending to the latent, then ascending.
        span: the times to solve between.

    Returns:
        The solution, whose counts are the sums over both legs.
    """
    down = encode(drift, images, source, solver, times=None if times is None else times[::-1], span=span)
    up = generate(drift, down.y, target, solver, times=times, span=span)
    return Solution(
        y=up.y,
        path=None if times is None else jnp.concatenate([down.path, up.path]),
        num_evaluations=down.num_evaluations + up.num_evaluations,
        num_rejected=down.num_rejected + up.num_rejected,
        succeeded=down.succeeded & up.succeeded,
    )


def translate_difference(
    drift: DriftFn,
    images: State,
    source: Condition,
    target: Condition,
    solver: Solver,
    *,
    inverse: bool = False,
    times: Float[Array, " times"] | None = None,
    span: Span = WHOLE,
) -> Solution:
    """Solves eq. 20 of ScoreFlow, dx = [f(x, t, target) - f(x, t, source)] dt, from t = 0 to 1.

    Args:
        drift: the class-conditional drift.
        images: where the ODE starts: at t = 0, although they are data.
        source, target: labels of the images and of the result.
        solver: its steps and tolerances.
        inverse: solve from t = 1 to 0 instead, which undoes the translation of the same two labels.
        times: where to keep the state, in the order of integration.
        span: the times to solve between.

    Returns:
        The solution; each evaluation it counts is two calls of the drift.
    """

    def field(t: Time, x: State, labels: tuple[Condition, Condition]) -> State:
        """The difference of the two drifts."""
        to, of = labels
        return as_field(drift)(t, x, to) - as_field(drift)(t, x, of)

    t0, t1 = span[::-1] if inverse else span
    return solver.solve(field, images, t0, t1, args=(target, source), times=times)


class Translation(NamedTuple):
    """A method of translation.

    Attributes:
        solve: from (drift, images, source, target, solver, times=...) to a solution.
        network_calls: calls of the network in one evaluation of the field that it solves.
    """

    solve: Callable[..., Solution]
    network_calls: int


TRANSLATIONS = {
    "latent": Translation(translate_latent, 1),
    "difference": Translation(translate_difference, 2),
}
"""Every method by the name that `config.translate.method` gives it."""


def methods_by(solver: Solver) -> tuple[str, ...]:
    """Names of the methods that a solver can: what follows the ODE of one drift does not solve that of `difference`."""
    return tuple(m for m in TRANSLATIONS if m != "difference" or solver.method not in OF_ONE_DRIFT)
