"""ScoreFlow's path-constrained loss, algorithm 1 and eq. 19 with its one-step approximation.

With xbar(t) = (1 - t) x0 + t x1 on the straight path, one Euler step from the source with the drift of the target state is

    (1)  x(t) = x0 + t f(xbar(t), t, c),            loss = lambda(t) |x(t) - xbar(t)|^2,

and since xbar(t) = x0 + t (x1 - x0) the difference is x(t) - xbar(t) = t (f - (x1 - x0)). So with lambda(t) = t^-p

    (2)  loss = t^(2 - p) |f(xbar(t), t, c) - (x1 - x0)|^2.

We compute (2): (1) is 0/0 at t = 0 for the paper's p = 1. p = 2 is rectified flow (eq. 18). The minimizer is
E[x1 - x0 | xbar(t)] for every p; the weight decides which times a network of finite size serves best.
"""

import dataclasses

import jax.numpy as jnp

from scoreflow_jax.paths import Path
from scoreflow_jax.typing import Condition, DriftFn, PerExample, State, Times


@dataclasses.dataclass(frozen=True)
class PathConstrained:
    """t^(2 - p) times the mean square of f(x_t, t, c) - dx_t/dt, equation (2) of the module.

    Attributes:
        path: how x_t and its velocity come from x0 and x1. The one-step reading (1) holds on the straight path; on another
            affine path (2) is a weighted velocity loss.
        weight_exponent: p in lambda(t) = t^-p, at most 2: 1 is the paper's, 2 is rectified flow, 0 the unweighted eq. 19.

    Raises:
        ValueError: p above 2, which is singular at t = 0.
    """

    path: Path
    weight_exponent: float = 1.0

    def __post_init__(self) -> None:
        """Checks the exponent."""
        if self.weight_exponent > 2:
            raise ValueError(
                f"weight_exponent is {self.weight_exponent}, expected at most 2: t^(2 - p) must stay finite at t = 0. "
                "The paper's is 1, rectified flow's 2."
            )

    def __call__(self, drift: DriftFn, x0: State, x1: State, t: Times, label: Condition | None) -> PerExample:
        """Returns equation (2) for each example, the square averaged over dimensions."""
        x_t = self.path.interpolant(t, x0, x1)
        residual = drift(x_t, t, label) - self.path.velocity(t, x0, x1)
        squared = jnp.mean(jnp.square(residual), axis=tuple(range(1, residual.ndim)))
        return t ** (2.0 - self.weight_exponent) * squared
