"""Paths x_t between the source x0 (t = 0) and the data x1 (t = 1).

A path states its interpolant, the distribution of its source and the times at which it is defined. The affine path is the
common case; it states only two functions of time,

    (1)  x_t = alpha(t) x1 + sigma(t) x0,

with alpha the weight of the data and sigma the weight of the source. The rest follows:

    (2)  velocity   dx_t/dt = alpha'(t) x1 + sigma'(t) x0
    (3)  score      grad log p(x_t | x1) = -x0 / sigma(t), for a Gaussian source.

Velocity, data, noise and score are all linear in (x1, x0), and so is x_t itself. Knowing x_t and any one of them therefore
fixes (x1, x0) by a 2x2 solve, and every other one by (1) to (3): `AffinePath.convert`. Taken in expectation given x_t the
same holds of what a network predicts.
"""

import abc
import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from scoreflow_jax.typing import PRNGKey, State, Time, Times

Prediction = Literal["velocity", "data", "noise", "score"]


def per_example(coefficient: Times | Time, like: State) -> jax.Array:
    """Reshapes (batch,) coefficients to (batch, 1, ...), so that they multiply `like` example by example."""
    coefficient = jnp.asarray(coefficient)
    if coefficient.ndim == 0:
        return coefficient
    return coefficient.reshape(coefficient.shape + (1,) * (like.ndim - 1))


@dataclasses.dataclass(frozen=True)
class Path(abc.ABC):
    """What joins the source to the data.

    Attributes:
        gaussian_source: whether x0 is N(0, I), without which there is no score; False when it is another data set.
        t_min, t_max: the times between which it is trained and solved, within [0, 1].
    """

    gaussian_source: bool = True
    t_min: float = 0.0
    t_max: float = 1.0

    def __post_init__(self) -> None:
        """Refuses limits outside [0, 1].

        Raises:
            ValueError: also where there is no time between them.
        """
        if not 0.0 <= self.t_min < self.t_max <= 1.0:
            raise ValueError(f"t_min and t_max are {self.t_min} and {self.t_max}, expected 0 <= t_min < t_max <= 1")

    @abc.abstractmethod
    def interpolant(self, t: Times, x0: State, x1: State) -> State:
        """Returns x_t for times t (batch,)."""

    def velocity(self, t: Times, x0: State, x1: State) -> State:
        """Returns dx_t/dt with x0 and x1 held fixed, by forward differentiation of the interpolant."""
        return jax.jvp(lambda s: self.interpolant(s, x0, x1), (t,), (jnp.ones_like(t),))[1]

    def sample_source(self, key: PRNGKey, shape: tuple[int, ...]) -> State:
        """Draws x0 of the given shape, the batch first; N(0, I) unless a path says otherwise."""
        return jax.random.normal(key, shape, jnp.float32)


@dataclasses.dataclass(frozen=True)
class AffinePath(Path):
    """x_t = alpha(t) x1 + sigma(t) x0, equation (1) of the module. Members state alpha and sigma and nothing else."""

    @abc.abstractmethod
    def alpha(self, t: Times | Time) -> Times | Time:
        """Weight of the data; 0 at t = 0 and 1 at t = 1."""

    @abc.abstractmethod
    def sigma(self, t: Times | Time) -> Times | Time:
        """Weight of the source; 1 at t = 0 and 0 at t = 1."""

    def interpolant(self, t: Times, x0: State, x1: State) -> State:
        """Returns equation (1)."""
        return per_example(self.alpha(t), x1) * x1 + per_example(self.sigma(t), x0) * x0

    def convert(self, value: State, x_t: State, t: Times, *, source: Prediction, target: Prediction) -> State:
        """Turns one prediction at x_t into another: velocity, data (x1), noise (x0) or score.

        Args:
            value: the prediction of kind `source`, of the shape of x_t.
            x_t: the state at which it was made.
            t: times (batch,). The pair (x_t, value) must determine (x1, x0) there: at t = 1, for one, the state and the
                data are the same thing.
            source: the kind of `value`.
            target: the kind to return.

        Raises:
            ValueError: a score is asked of a path whose source is not Gaussian.
        """
        if "score" in (source, target) and not self.gaussian_source:
            raise ValueError(
                "this path has no score: its source is not Gaussian. Convert to velocity, data or noise instead."
            )
        a, b = self.alpha(t), self.sigma(t)  # x_t   = a x1 + b x0
        c, d = self._row(source, t)  # value = c x1 + d x0
        determinant = a * d - b * c
        x1 = (per_example(d, x_t) * x_t - per_example(b, x_t) * value) / per_example(determinant, x_t)
        x0 = (per_example(a, x_t) * value - per_example(c, x_t) * x_t) / per_example(determinant, x_t)
        p, q = self._row(target, t)
        return per_example(p, x_t) * x1 + per_example(q, x_t) * x0

    def _row(self, kind: Prediction, t: Times) -> tuple[Times, Times]:
        """The weights of (x1, x0) in a prediction of this kind."""
        one, zero = jnp.ones_like(t), jnp.zeros_like(t)
        if kind == "velocity":
            return jax.jvp(self.alpha, (t,), (one,))[1], jax.jvp(self.sigma, (t,), (one,))[1]
        return {"data": (one, zero), "noise": (zero, one), "score": (zero, -1.0 / self.sigma(t))}[kind]
