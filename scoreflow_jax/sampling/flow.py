"""The two directions of the ODE dx/dt = f(x, t, c): from noise to data (eq. 10) and back."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scoreflow_jax.ode import Solution, Solver, VectorField
from scoreflow_jax.paths import NetworkDrift
from scoreflow_jax.paths.guidance import guided
from scoreflow_jax.sampling.jumps import follow
from scoreflow_jax.typing import Condition, DriftFn, FlowMapFn, PerExample, PyTree, State, Time

Span = tuple[float, float]
"""The first and the last time of a solve from noise to data."""
WHOLE: Span = (0.0, 1.0)


def as_field(drift: Callable[..., State]) -> VectorField:
    """The drift as the solver calls it: one time for the whole batch, labels as the solver's arguments."""

    def field(t: Time, x: State, label: PyTree) -> State:
        """f(x, t, c) with t repeated for each example."""
        return drift(x, jnp.broadcast_to(jnp.asarray(t, jnp.float32), x.shape[:1]), label)

    return field


def generate(
    drift: DriftFn,
    x0: State,
    label: Condition | None,
    solver: Solver,
    *,
    times: Float[Array, " times"] | None = None,
    span: Span = WHOLE,
    guidance: PerExample | None = None,
    denoise: bool = False,
) -> Solution:
    """Carries source points at t = 0 to data at t = 1, eq. 10 of ScoreFlow.

    Args:
        drift: f(x, t, c).
        x0: source points.
        label: conditions.
        solver: of the ODE; one of the method "flow_map" needs a drift that knows where it leads.
        times: ascending; states at them are kept.
        span: the times to solve between, where the drift is not defined on all of [0, 1].
        guidance: weight of classifier-free guidance for each example, see `paths/guidance.py`; the evaluations counted then cost
            two network calls each, but those of a flow map, which is told the weight.
        denoise: end with E[x1 | x at the last time], the data that a `NetworkDrift` expects there, where the path leaves noise
            in the solution: one more evaluation, and no inverse.
    """
    if solver.method == "flow_map":
        assert isinstance(drift, FlowMapFn)
        solution = follow(drift, x0, *span, label, solver, times=times, guidance=guidance)
    elif guidance is None:
        solution = solver.solve(as_field(drift), x0, *span, args=label, times=times)
    else:
        solution = solver.solve(as_field(guided(drift)), x0, *span, args=(label, guidance), times=times)
    if not denoise:
        return solution
    assert isinstance(drift, NetworkDrift)
    data: Callable[..., State] = functools.partial(drift.predict, "data")
    condition = label if guidance is None else (label, guidance)
    with jax.default_matmul_precision(solver.precision):
        field = as_field(data if guidance is None else guided(data))
        y = field(jnp.float32(span[1]), solution.y, condition)
    # A solve that failed stays one: what follows of its state says nothing.
    calls = (
        2 if solver.method == "flow_map" and guidance is not None else 1
    )  # each counts for itself where jumps are told the weight
    return solution._replace(y=y, num_evaluations=solution.num_evaluations + calls)


def encode(
    drift: DriftFn,
    x1: State,
    label: Condition | None,
    solver: Solver,
    *,
    times: Float[Array, " times"] | None = None,
    span: Span = WHOLE,
) -> Solution:
    """Carries data at t = 1 back to the source at t = 0, the inverse of `generate`.

    Args:
        drift: f(x, t, c).
        x1: data.
        label: conditions.
        solver: of the ODE.
        times: descending; states at them are kept.
        span: as of `generate`, from the source to the data; it is gone through from its end.
    """
    if solver.method == "flow_map":
        assert isinstance(drift, FlowMapFn)
        return follow(drift, x1, *span[::-1], label, solver, times=times)
    return solver.solve(as_field(drift), x1, *span[::-1], args=label, times=times)
