"""The two directions of the ODE dx/dt = f(x, t, c): from noise to data (eq. 10) and back."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from scoreflow_jax.ode import Solution, Solver, VectorField
from scoreflow_jax.typing import DriftFn, Labels, State, Time, Times


def as_field(drift: DriftFn) -> VectorField:
    """The drift as the solver calls it: one time for the whole batch, labels as the solver's arguments."""

    def field(t: Time, x: State, label: Labels | None) -> State:
        """f(x, t, c) with t repeated for each example."""
        return drift(x, _times(t, x), label)

    return field


def _times(t: Time, x: State) -> Times:
    return jnp.broadcast_to(jnp.asarray(t, jnp.float32), x.shape[:1])


def generate(
    drift: DriftFn, x0: State, label: Labels | None, solver: Solver, *, times: Float[Array, " times"] | None = None
) -> Solution:
    """Carries source points at t = 0 to data at t = 1, eq. 10 of ScoreFlow; keeps the states at `times` (ascending)."""
    return solver.solve(as_field(drift), x0, 0.0, 1.0, args=label, times=times)


def encode(
    drift: DriftFn, x1: State, label: Labels | None, solver: Solver, *, times: Float[Array, " times"] | None = None
) -> Solution:
    """Carries data at t = 1 back to the source at t = 0, the inverse of `generate`; `times` descend."""
    return solver.solve(as_field(drift), x1, 1.0, 0.0, args=label, times=times)
