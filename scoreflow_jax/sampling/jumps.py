"""Follows the ODE by a flow map, X_{t,s}(x) = x + (s - t) u(x, t, s, c): one network call a jump, however long it is.

Nothing estimates the error of a jump; more and shorter ones come nearer to the ODE's solution where the map was learned well.

The two directions are learned each for itself. Towards noise a jump y from x can be corrected to one that the jump forward
undoes, X_{s,t}(y) = x, by the iteration

    y <- x - (t - s) u(y, s, t, c),

one network call each, which multiplies the error by 1 - dX_{s,t}/dy. The way to data brings neighbours together, so that this is
below 1; the other way round, from noise to data, it would diverge, since the way to noise takes them apart. Such iterations
invert samplers of diffusion models in Pan et al. 2023 (arXiv:2309.04907) and Garibi et al. 2024 (arXiv:2403.14602).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scoreflow_jax.ode import Solution, Solver
from scoreflow_jax.typing import Condition, FlowMapFn, PerExample, State, Time

_NEAR = 1e-6  # times that close are one: float32 tells those near 1 apart by 6e-8


def follow(
    drift: FlowMapFn,
    x: State,
    t0: float,
    t1: float,
    label: Condition | None,
    solver: Solver,
    *,
    times: Float[Array, " times"] | None = None,
    guidance: PerExample | None = None,
) -> Solution:
    """Jumps from t0 to t1, forwards or backwards, by the steps of the solver.

    Args:
        drift: which knows where it leads.
        x: points at t0.
        t0, t1: times in [0, 1].
        label: conditions.
        solver: of the method "flow_map".
        times: where to keep the state on the way, in the order of integration. One that lies between two meeting points takes a
            jump of its own, which is counted and not gone on from.
        guidance: weight of each example, of a network that is told it; None: 1.
    """
    count: Any = solver.num_steps
    corrections = solver.corrections if t1 < t0 else 0
    place = solver.steps(t0, t1)

    def jump(x: State, t: Time, s: Time) -> State:
        """X from t to s, one time for all."""
        t, s = (jnp.broadcast_to(jnp.asarray(each, jnp.float32), x.shape[:1]) for each in (t, s))
        length = (s - t).reshape(-1, *[1] * (x.ndim - 1))
        y = x + length * drift.mean_velocity(x, t, s, label, guidance)
        for _ in range(corrections):
            y = x + length * drift.mean_velocity(y, s, t, label, guidance)
        return y

    def step(k: Array, x: State) -> State:
        """The k-th jump."""
        return jump(x, place(k), place(k + 1))

    def keep(now: tuple[Array, State, Array], time: Time) -> tuple[tuple[Array, State, Array], State]:
        """Goes to the last meeting point before a time, and from there to that time."""
        due = lambda at: (at[0] < count) & (jnp.sign(t1 - t0) * (place(at[0] + 1) - time) <= _NEAR)  # noqa: E731
        k, x, calls = jax.lax.while_loop(due, lambda at: (at[0] + 1, step(at[0], at[1]), at[2] + each), now)
        met = abs(place(k) - time) <= _NEAR
        kept = jax.lax.cond(met, lambda x: x, lambda x: jump(x, place(k), time), x)
        return (k, x, calls + jnp.where(met, 0, each)), kept

    each = 1 + corrections
    with jax.default_matmul_precision(solver.precision):
        now, path = (jnp.int32(0), x, jnp.int32(0)), None
        if times is not None:
            now, path = jax.lax.scan(keep, now, times)
        first, x, calls = now
        y = jax.lax.fori_loop(first, jnp.int32(count), step, x)
    solution = Solution.by_calls(y, calls + each * (jnp.int32(count) - first), y)
    return solution._replace(path=path)
