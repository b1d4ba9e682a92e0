"""The density that the ODE dx/dt = f(x, t, c) gives to data (Chen et al. 2018; ScoreFlow, section 4; Song et al. 2021, eq. 39).

Along a solution d log p(x(t)) / dt = -div f(x(t), t, c), so with x(0) from the source

    log p_1(x(1)) = log p_0(x(0)) - integral over [0, 1] of div f(x(t), t, c) dt.

State and integral are solved together, by one step control. The divergence is exact, D forward derivatives, or Hutchinson's
unbiased estimate e . (df/dx) e with probes e drawn before the solve: new ones at each evaluation would be noise to the step
control. Several probes share the path and the network's forward pass, and their scatter says how far off their mean may be.
Forward mode only: on CPU reverse mode is 40 times slower inside a solver's loop.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scoreflow_jax.ode import Solution, Solver
from scoreflow_jax.randomness import key_of
from scoreflow_jax.sampling.flow import WHOLE, Span, as_field
from scoreflow_jax.typing import Condition, DriftFn, PerExample, PRNGKey, PyTree, State, Time

PROBES = ("rademacher", "gaussian", "exact")
"""How the divergence is taken, by the name that `config.eval.likelihood.probe` gives it; `exact` needs no probe."""

_TANGENTS = 64  # directions whose derivatives are computed side by side for the exact divergence
_PROBES_AT_ONCE = 8  # likewise of probes, of which there may be many

Probes = Float[Array, "batch probes ..."]
"""Probes: so many for each example, each of its shape."""

Estimates = Float[Array, "batch probes"]
"""A divergence, or its integral, by each probe; by the exact trace one."""


def draw_probes(
    key: PRNGKey, indices: Int[Array, " batch"], shape: tuple[int, ...], kind: str, count: int = 1
) -> Probes | None:
    """Probes with mean 0 and covariance I; None for "exact".

    Rademacher's signs have the least variance: 2 times the sum of the squares of the symmetric part's off-diagonal elements.

    Args:
        key: probe j of example i is drawn from fold_in(fold_in(key_of(key, "probe"), i), j), and so shares nothing with noise.
        indices: numbers of the examples.
        shape: of an example.
        kind: a name in `PROBES`.
        count: probes of each.

    Raises:
        ValueError: an unknown kind, or a count below 1.
    """
    if kind not in PROBES:
        raise ValueError(f"unknown probe {kind!r}, expected one of {', '.join(PROBES)}")
    if count < 1:
        raise ValueError(f"got {count} probes, expected at least 1")
    if kind == "exact":
        return None
    draw = jax.random.rademacher if kind == "rademacher" else jax.random.normal
    named = key_of(key, "probe")
    one = lambda i, j: draw(jax.random.fold_in(jax.random.fold_in(named, i), j), shape, jnp.float32)  # noqa: E731
    return jax.vmap(lambda i: jax.vmap(lambda j: one(i, j))(jnp.arange(count)))(indices)


def divergence(f: Callable[[State], State], x: State, probes: Probes | None) -> tuple[State, Estimates]:
    """f(x) and its divergence for each example, which must not depend on the other examples.

    Args:
        f: of a batch.
        x: the points.
        probes: Hutchinson's; None: the exact trace, by D forward derivatives.
    """
    if probes is not None and probes.shape[1] == 1:
        value, along = jax.jvp(f, (x,), (probes[:, 0],))
        return value, _sum(probes[:, 0] * along)[:, None]
    value, derivative = jax.linearize(f, x)
    if probes is not None:
        each = jnp.moveaxis(probes, 1, 0)
        found = jax.lax.map(lambda e: _sum(e * derivative(e)), each, batch_size=min(_PROBES_AT_ONCE, len(each)))
        return value, found.T
    size = math.prod(x.shape[1:])

    def diagonal(i: Array) -> PerExample:
        """d f_i / d x_i of every example."""
        direction = jax.nn.one_hot(i, size, dtype=x.dtype).reshape(1, *x.shape[1:])
        return derivative(jnp.broadcast_to(direction, x.shape)).reshape(len(x), size)[:, i]

    parts = jax.lax.map(diagonal, jnp.arange(size), batch_size=min(_TANGENTS, size))
    return value, jnp.sum(parts, axis=0)[:, None]


def normal_log_density(x: State, scale: float = 1.0) -> PerExample:
    """log density of N(0, scale^2 I), the source."""
    size = math.prod(x.shape[1:])
    return -0.5 * _sum((x / scale) ** 2) - size * (0.5 * math.log(2 * math.pi) + math.log(scale))


def log_likelihood(
    drift: DriftFn,
    x1: State,
    label: Condition | None,
    solver: Solver,
    *,
    probes: Probes | None = None,
    span: Span = WHOLE,
    prior_scale: float = 1.0,
) -> Solution:
    """log p_1(x1 | label) of data, by solving from t = 1 to 0; with a span that ends earlier, of states at that time.

    Args:
        drift: f(x, t, c), whose examples do not depend on each other.
        x1: data.
        label: conditions.
        solver: of the ODE.
        probes: of `draw_probes`; None: the exact divergence.
        span: the times to solve between.
        prior_scale: standard deviation of the source, `Path.prior_scale`.

    Returns:
        The solution with y = (log likelihood in nats (batch,), latents, standard error of the former (batch,)): of its mean over
        probes, NaN for one probe, 0 for the exact divergence. An evaluation computes the network and its derivatives.
    """
    solution = _solve(drift, x1, label, solver, probes, span[::-1])
    x0, integrals = solution.y
    mean, error = _mean_and_error(integrals, exact=probes is None)
    # Solved downwards, the integral comes with the other sign.
    return solution._replace(y=(normal_log_density(x0, prior_scale) + mean, x0, error))


def generate_with_likelihood(
    drift: DriftFn,
    x0: State,
    label: Condition | None,
    solver: Solver,
    *,
    probes: Probes | None = None,
    span: Span = WHOLE,
    prior_scale: float = 1.0,
) -> Solution:
    """Carries source points to data as `sampling.generate` does, and finds the log likelihood of these on the way.

    Args:
        drift: f(x, t, c), whose examples do not depend on each other.
        x0: source points.
        label: conditions.
        solver: of the ODE.
        probes: of `draw_probes`; None: the exact divergence.
        span: the times to solve between.
        prior_scale: standard deviation of the source, `Path.prior_scale`.

    Returns:
        The solution with y = (log likelihood in nats (batch,), data, standard error as of `log_likelihood`).
    """
    solution = _solve(drift, x0, label, solver, probes, span)
    x1, integrals = solution.y
    mean, error = _mean_and_error(integrals, exact=probes is None)
    return solution._replace(y=(normal_log_density(x0, prior_scale) - mean, x1, error))


def _solve(
    drift: DriftFn, x: State, label: Condition | None, solver: Solver, probes: Probes | None, span: Span
) -> Solution:
    """Solves for the state and the integrals of its divergence, one for each probe, along it."""
    field = as_field(drift)

    def joint(t: Time, y: tuple[State, Estimates], args: PyTree) -> tuple[State, Estimates]:
        """(f, div f)."""
        label, probes = args
        return divergence(lambda x: field(t, x, label), y[0], probes)

    integrals = jnp.zeros((len(x), 1 if probes is None else probes.shape[1]))
    return solver.solve(joint, (x, integrals), *span, args=(label, probes))


def _mean_and_error(estimates: Estimates, *, exact: bool) -> tuple[PerExample, PerExample]:
    """The mean over probes and its standard error."""
    count = estimates.shape[1]
    if count > 1:
        error = jnp.std(estimates, axis=1, ddof=1) / math.sqrt(count)
    else:
        error = jnp.full(estimates.shape[:1], 0.0 if exact else jnp.nan)
    return jnp.mean(estimates, axis=1), error


def _sum(x: State) -> PerExample:
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def bits_per_dim(log_density: Float[Array, " batch"], size: int, levels: int) -> Float[Array, " batch"]:
    """Bits for each number of a quantized image, from the density of its dequantized one in [-1, 1].

    A level's cell is 2 / levels wide, so bits = -log2 p / size + log2(levels) - 1: 7 for 256 levels, 3.087 for 17. A density
    uniform on [-1, 1] takes log2(levels) bits (Theis et al. 2016, section 3.1, for the bound that dequantization gives).

    Args:
        log_density: in nats, on [-1, 1].
        size: how many numbers an image has.
        levels: of grey.
    """
    return -log_density / (size * math.log(2)) + math.log2(levels) - 1.0
