"""ScoreFlow's path-constrained loss, eq. 19, by algorithm 1's one step or by several steps of the drift itself.

With xbar(t) = (1 - t) x0 + t x1 on the straight path, one Euler step from the source with the drift of the target state is

    (1)  x(t) = x0 + t f(xbar(t), t, c),            loss = lambda(t) |x(t) - xbar(t)|^2,

and since xbar(t) = x0 + t (x1 - x0) the difference is x(t) - xbar(t) = t (f - (x1 - x0)). So with lambda(t) = t^-p

    (2)  loss = t^(2 - p) |f(xbar(t), t, c) - (x1 - x0)|^2.

We compute (2): (1) is 0/0 at t = 0 for the paper's p = 1. p = 2 is rectified flow (eq. 18). The minimizer is
E[x1 - x0 | xbar(t)] for every p; the weight decides which times a network of finite size serves best. Some weights are errors of
another prediction, since |noise error| = t |f error| and |data error| = (1 - t) |f error| on this path: p = 0 is the loss of
noise prediction.

With K steps x(t) is what eq. 19 says, a solution of dx/ds = f(x(s), s, c) from x(0) = x0 to s = t, by K equal steps of Euler's or
Heun's method with gradients through all of them:

    (3)  x(t) = x0 + t F,  F the mean of the steps' slopes,    loss = t^(2 - p) |F - (x1 - x0)|^2.

Its minimizer is another one. x(t) is then a function of x0 alone, so for x1 drawn independently of x0 the best x(t) is
E[xbar(t) | x0] = (1 - t) x0 + t E[x1 | c]: exact minimization carries every point to the mean of its class
(docs/theory.md has it measured). Over pairs that belong to each other, as reflow makes them, it does what it says.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from scoreflow_jax.objectives.base import Objective, mean_square
from scoreflow_jax.paths import AffinePath, per_example
from scoreflow_jax.settings.objective import PathConstrainedFields
from scoreflow_jax.typing import Condition, DriftFn, PerExample, State, Times


@dataclasses.dataclass(frozen=True)
class PathConstrained(PathConstrainedFields, Objective):
    """lambda(t) t^2 times the mean square of f(x_t, t, c) - dx_t/dt, or of the mean slope of K steps: (2) and (3) of the module.

    Attributes:
        path: how x_t and its velocity come from x0 and x1. Readings (1) and (3) hold on the straight path; on another affine
            path (2) is a weighted velocity loss.

    Raises:
        ValueError: steps on a path that is not straight, or a weight that the path does not have.
    """

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        if self.num_steps and not self.path.is_straight:
            raise ValueError(
                f"num_steps is {self.num_steps}, but eq. 19 is of the straight path: set config.path.name to 'linear'"
            )
        if self.weight in ("noise", "data") and not isinstance(self.path, AffinePath):
            raise ValueError(f"weight is {self.weight!r}, but {type(self.path).__name__} is no affine path")

    def __call__(
        self, drift: DriftFn, x0: State, x1: State, t: Times, label: Condition | None, z: State | None = None
    ) -> PerExample:
        """Returns (2) or (3) for each example, the square averaged over dimensions."""
        if self.num_steps:
            residual = self._slope(drift, x0, t, label) - (x1 - x0)
        else:
            x_t = self.path.interpolant(t, x0, x1, z)
            residual = drift(x_t, t, label) - self.path.velocity(t, x0, x1, z)
        return self.weight_at(t) * mean_square(residual)

    def weight_at(self, t: Times) -> Times | float:
        """lambda(t) t^2."""
        kinds: dict[str, Literal["noise", "data"]] = {"noise": "noise", "data": "data"}
        if self.weight in kinds:
            assert isinstance(self.path, AffinePath)
            return jnp.square(self.path.change_per_velocity(kinds[self.weight], t))
        match self.weight:
            case "velocity":
                return 1.0
            case "logit_normal":
                inside = jnp.clip(t, 1e-6, 1.0 - 1e-6)
                logit = jnp.log(inside) - jnp.log1p(-inside)
                return jnp.exp(-0.5 * logit**2) / (jnp.sqrt(2 * jnp.pi) * inside * (1.0 - inside))
            case _:
                return t ** (2.0 - self.weight_exponent)

    def _slope(self, drift: DriftFn, x0: State, t: Times, label: Condition | None) -> State:
        """F of (3). Unrolled: gradients of convolutions in a loop are 40 to 120 times slower on CPU."""
        step, x, total = t / self.num_steps, x0, jnp.zeros_like(x0)
        f = jax.checkpoint(
            lambda x, s: drift(x, s, label)
        )  # as much memory as one step takes, for one more evaluation each
        for k in range(self.num_steps):
            slope = f(x, k * step)
            if self.method == "heun":
                slope = 0.5 * (slope + f(x + per_example(step, x) * slope, (k + 1) * step))
            x = x + per_example(step, x) * slope
            total = total + slope
        return total / self.num_steps
