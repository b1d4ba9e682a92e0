"""The density that the ODE dx/dt = f(x, t, c) gives to data (Chen et al. 2018; ScoreFlow, section 4; Song et al. 2021, eq. 39).

Along a solution d log p(x(t)) / dt = -div f(x(t), t, c), so with x(0) from the source

    log p_1(x(1)) = log p_0(x(0)) - integral over [0, 1] of div f(x(t), t, c) dt.

State and integral are solved together, by one step control. The divergence is exact, D forward derivatives, or Hutchinson's
unbiased estimate e . (df/dx) e with one probe e a solve, drawn before it: a new one at each evaluation would be noise to the
step control. Forward mode only: on CPU reverse mode is 40 times slower inside a solver's loop.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scoreflow_jax.ode import Solution, Solver
from scoreflow_jax.sampling.flow import WHOLE, Span, as_field
from scoreflow_jax.typing import Condition, DriftFn, PerExample, PRNGKey, PyTree, State, Time

PROBES = ("rademacher", "gaussian", "exact")
"""How the divergence is taken, by the name that `config.eval.likelihood_probe` gives it; `exact` needs no probe."""

_TANGENTS = 64  # directions whose derivatives are computed side by side for the exact divergence


def draw_probe(key: PRNGKey, shape: tuple[int, ...], kind: str) -> State | None:
    """A probe with mean 0 and covariance I; None for "exact".

    Rademacher's signs have the least variance: 2 times the sum of the squares of the symmetric part's off-diagonal elements.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in PROBES:
        raise ValueError(f"unknown probe {kind!r}, expected one of {', '.join(PROBES)}")
    if kind == "exact":
        return None
    draw = jax.random.rademacher if kind == "rademacher" else jax.random.normal
    return draw(key, shape, jnp.float32)


def divergence(f: Callable[[State], State], x: State, probe: State | None) -> tuple[State, PerExample]:
    """f(x) and its divergence for each example, which must not depend on the other examples.

    Args:
        f: of a batch.
        x: the points.
        probe: Hutchinson's, of x's shape; None: the exact trace, by D forward derivatives.
    """
    axes = tuple(range(1, x.ndim))
    if probe is not None:
        value, along = jax.jvp(f, (x,), (probe,))
        return value, jnp.sum(probe * along, axis=axes)
    value, derivative = jax.linearize(f, x)
    size = math.prod(x.shape[1:])

    def diagonal(i: Array) -> PerExample:
        """d f_i / d x_i of every example."""
        direction = jax.nn.one_hot(i, size, dtype=x.dtype).reshape(1, *x.shape[1:])
        return derivative(jnp.broadcast_to(direction, x.shape)).reshape(len(x), size)[:, i]

    parts = jax.lax.map(diagonal, jnp.arange(size), batch_size=min(_TANGENTS, size))
    return value, jnp.sum(parts, axis=0)


def normal_log_density(x: State, scale: float = 1.0) -> PerExample:
    """log density of N(0, scale^2 I), the source."""
    size = math.prod(x.shape[1:])
    squares = jnp.sum((x / scale) ** 2, axis=tuple(range(1, x.ndim)))
    return -0.5 * squares - size * (0.5 * math.log(2 * math.pi) + math.log(scale))


def log_likelihood(
    drift: DriftFn,
    x1: State,
    label: Condition | None,
    solver: Solver,
    *,
    probe: State | None = None,
    span: Span = WHOLE,
    prior_scale: float = 1.0,
) -> Solution:
    """log p_1(x1 | label) of data, by solving from t = 1 to 0; with a span that ends earlier, of states at that time.

    Args:
        drift: f(x, t, c), whose examples do not depend on each other.
        x1: data.
        label: conditions.
        solver: of the ODE.
        probe: of `draw_probe`; None: the exact divergence.
        span: the times to solve between.
        prior_scale: standard deviation of the source, `Path.prior_scale`.

    Returns:
        The solution with y = (log likelihood in nats (batch,), latents). An evaluation computes the network and its derivative.
    """
    solution = _solve(drift, x1, label, solver, probe, span[::-1])
    x0, integral = solution.y
    # Solved downwards, the integral comes with the other sign.
    return solution._replace(y=(normal_log_density(x0, prior_scale) + integral, x0))


def generate_with_likelihood(
    drift: DriftFn,
    x0: State,
    label: Condition | None,
    solver: Solver,
    *,
    probe: State | None = None,
    span: Span = WHOLE,
    prior_scale: float = 1.0,
) -> Solution:
    """Like `sampling.generate`, with y = (log likelihood in nats (batch,), data)."""
    solution = _solve(drift, x0, label, solver, probe, span)
    x1, integral = solution.y
    return solution._replace(y=(normal_log_density(x0, prior_scale) - integral, x1))


def _solve(
    drift: DriftFn, x: State, label: Condition | None, solver: Solver, probe: State | None, span: Span
) -> Solution:
    """Solves for the state and the integral of the divergence along it."""
    field = as_field(drift)

    def joint(t: Time, y: tuple[State, PerExample], args: PyTree) -> tuple[State, PerExample]:
        """(f, div f)."""
        label, probe = args
        return divergence(lambda x: field(t, x, label), y[0], probe)

    return solver.solve(joint, (x, jnp.zeros(x.shape[:1])), *span, args=(label, probe))


def bits_per_dim(log_density: Float[Array, " batch"], size: int, levels: int) -> Float[Array, " batch"]:
    """Bits for each number of a quantized image, from the density of its dequantized one in [-1, 1].

    A level's cell is 2 / levels wide, so bits = -log2 p / size + log2(levels) - 1: 7 for 256 levels, 3.087 for 17. A density
    uniform on [-1, 1] takes log2(levels) bits (Theis et al. 2016, section 3.1, for the bound that dequantization gives).
    """
    return -log_density / (size * math.log(2)) + math.log2(levels) - 1.0
