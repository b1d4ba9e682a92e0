"""Paths x_t between the source x0 (t = 0) and the data x1 (t = 1).

A path states its interpolant, the distribution of its source and the times at which it is defined. The affine path is the
common case; it states only two functions of time,

    (1)  x_t = alpha(t) x1 + sigma(t) x0,

with alpha the weight of the data and sigma the weight of the source. The rest follows:

    (2)  velocity   dx_t/dt = alpha'(t) x1 + sigma'(t) x0
    (3)  score      grad log p(x_t | x1) = -x0 / sigma(t), for a Gaussian source
    (4)  diffusion  g(t)^2 = 2 sigma (sigma alpha' / alpha - sigma'), of the SDE from data to noise with these marginals
                    (Song et al. 2021, arXiv:2011.13456, eq. 29, with time turned round).

Velocity, data, noise and score are all linear in (x1, x0), and so is x_t itself. Knowing x_t and any one of them therefore
fixes (x1, x0) by a 2x2 solve, and every other one by (1) to (3): `AffinePath.convert`. Taken in expectation given x_t the
same holds of what a network predicts.

An affine path may carry a latent z ~ N(0, I) too (Albergo, Boffi and Vanden-Eijnden 2023, arXiv:2303.08797, eq. 2.1):

    (5)  x_t = alpha(t) x1 + sigma(t) x0 + gamma(t) z,    gamma(0) = gamma(1) = 0.

It gives densities between two data sets a score, -E[z | x_t] / gamma(t). With a Gaussian source it changes nothing but the
path: sigma x0 + gamma z is Gaussian with standard deviation sqrt(sigma^2 + gamma^2), which then stands for sigma in (2) to (4).
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scoreflow_jax.settings.path import AffineFields, PathFields, Prediction
from scoreflow_jax.typing import PRNGKey, State, Time, Times

_HALVINGS = 30  # of an interval of times; float32 tells apart no more


def per_example(coefficient: Times | Time, like: State) -> jax.Array:
    """Reshapes (batch,) coefficients to (batch, 1, ...), so that they multiply `like` example by example."""
    coefficient = jnp.asarray(coefficient)
    if coefficient.ndim == 0:
        return coefficient
    return coefficient.reshape(coefficient.shape + (1,) * (like.ndim - 1))


@dataclasses.dataclass(frozen=True)
class Path(PathFields, abc.ABC):
    """What joins the source to the data.

    Attributes:
        gaussian_source: whether x0 is N(0, I), without which there is no score; False when it is another data set.
    """

    gaussian_source: bool = True

    @property
    def prior_scale(self) -> float:
        """Standard deviation of the noise that a solve starts from; 1 unless a path says otherwise."""
        return 1.0

    @property
    def has_latent(self) -> bool:
        """Whether the interpolant takes a latent z besides x0 and x1."""
        return False

    @property
    def num_parameters(self) -> int:
        """Numbers of the path that are learned; 0 of most."""
        return 0

    @property
    def is_straight(self) -> bool:
        """Whether x_t is t x1 + (1 - t) x0 and nothing else, the paper's path."""
        return False

    @property
    def is_chain(self) -> bool:
        """Whether it stands for a chain of discrete steps, at whose times alone a network is trained."""
        return False

    def trained_times(self, times: Times) -> Times:
        """The times nearest to these at which a network is trained; on most paths these themselves."""
        return times

    def with_parameters(self, values: Float[Array, " parameters"]) -> "Path":
        """The path with these in place of its learned numbers."""
        del values
        return self

    @abc.abstractmethod
    def interpolant(self, t: Times, x0: State, x1: State, z: State | None = None) -> State:
        """Returns x_t at the times t.

        Args:
            t: times, (batch,).
            x0: source points, at t = 0.
            x1: data, at t = 1.
            z: the latent, N(0, I), of paths that have one; None: 0.
        """

    def velocity(self, t: Times, x0: State, x1: State, z: State | None = None) -> State:
        """Returns dx_t/dt with x0, x1 and z held fixed, by forward differentiation of the interpolant.

        Args:
            t, x0, x1, z: as of `interpolant`.
        """
        return jax.jvp(lambda s: self.interpolant(s, x0, x1, z), (t,), (jnp.ones_like(t),))[1]

    def sample_source(self, key: PRNGKey, shape: tuple[int, ...]) -> State:
        """Draws x0 of the given shape, the batch first: N(0, I)."""
        return jax.random.normal(key, shape, jnp.float32)


@dataclasses.dataclass(frozen=True)
class AffinePath(AffineFields, Path):
    """x_t = alpha(t) x1 + sigma(t) x0 + gamma(t) z, (1) and (5) of the module. Members state alpha and sigma and nothing else."""

    @property
    def has_latent(self) -> bool:
        """Whether gamma is not 0."""
        return self.latent != "none"

    @property
    def noise_left(self) -> float:
        """noise_std / alpha at t_max: the deviation of the noise in the data that solves end at, in their own units."""
        with jax.ensure_compile_time_eval():
            t = jnp.float32(self.t_max)
            return abs(float(self.noise_std(t) / self.alpha(t)))

    @abc.abstractmethod
    def alpha(self, t: Times | Time) -> Times | Time:
        """Weight of the data; at t = 0 it is 0, or as good as 0, and at t = 1 it is 1."""

    @abc.abstractmethod
    def sigma(self, t: Times | Time) -> Times | Time:
        """Weight of the source; `prior_scale` at t = 0, and 0, or as good as 0, at t = 1."""

    def gamma(self, t: Times | Time) -> Times | Time:
        """Weight of the latent."""
        t = jnp.asarray(t)
        match self.latent:
            case "brownian":
                return self.latent_scale * jnp.sqrt(t * (1.0 - t))
            case "sine":
                return self.latent_scale * jnp.square(jnp.sin(jnp.pi * t))
            case _:
                return jnp.zeros_like(t)

    def noise_std(self, t: Times | Time) -> Times | Time:
        """Standard deviation of x_t given x1 from a Gaussian source: sigma, or with a latent sqrt(sigma^2 + gamma^2)."""
        return jnp.hypot(self.sigma(t), self.gamma(t)) if self.has_latent else self.sigma(t)

    def log_snr(self, t: Times | Time) -> Times | Time:
        """log(alpha^2 / noise_std^2), which rises with t; minus infinity at pure noise and infinity at the data."""
        # Of absolute values: cos(pi / 2) is -4e-8 in float32.
        return 2.0 * (jnp.log(jnp.abs(self.alpha(t))) - jnp.log(jnp.abs(self.noise_std(t))))

    def time_at(self, log_snr: Times | Time) -> Times | Time:
        """The time at which `log_snr` has this value, by bisection; the nearer of t_min and t_max where none has."""
        wanted = jnp.asarray(log_snr)

        def halve(_: Array, ends: tuple[Any, Any]) -> tuple[Any, Any]:
            low, high = ends
            middle = 0.5 * (low + high)
            below = self.log_snr(middle) < wanted
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        ends = jnp.full_like(wanted, self.t_min), jnp.full_like(wanted, self.t_max)
        low, high = jax.lax.fori_loop(0, _HALVINGS, halve, ends)
        return 0.5 * (low + high)

    def diffusion_squared(self, t: Times | Time) -> Times | Time:
        """g(t)^2 of (4); infinite where alpha is 0.

        Raises:
            ValueError: the source is not Gaussian.
        """
        self._check_gaussian()
        t = jnp.asarray(t)
        (alpha, rate), (std, slope) = (_with_derivative(f, t) for f in (self.alpha, self.noise_std))
        return 2.0 * std * (std * rate / alpha - slope)

    def interpolant(self, t: Times, x0: State, x1: State, z: State | None = None) -> State:
        """Returns equation (1), or (5)."""
        x_t = per_example(self.alpha(t), x1) * x1 + per_example(self.sigma(t), x0) * x0
        return x_t if z is None or not self.has_latent else x_t + per_example(self.gamma(t), z) * z

    def convert(self, value: State, x_t: State, t: Times, *, given: Prediction, wanted: Prediction) -> State:
        """Turns one prediction at x_t into another: velocity, data (x1), noise (x0) or score.

        Args:
            value: the prediction of kind `given`, of the shape of x_t.
            x_t: the state at which it was made.
            t: times (batch,). The pair (x_t, value) must determine (x1, x0) there: at t = 1, for one, the state and the
                data are the same thing.
            given: the kind of `value`.
            wanted: the kind to return.

        Raises:
            ValueError: a score is asked of a path whose source is not Gaussian, or anything of one that also has a latent: then
                x_t and one prediction do not determine the rest.
        """
        if given == wanted:
            return value
        if self.has_latent or "score" in (given, wanted):
            self._check_gaussian()
        a, b = self.alpha(t), self.noise_std(t)  # x_t   = a x1 + b x0
        c, d = self._row(given, t)  # value = c x1 + d x0
        determinant = a * d - b * c
        x1 = (per_example(d, x_t) * x_t - per_example(b, x_t) * value) / per_example(determinant, x_t)
        x0 = (per_example(a, x_t) * value - per_example(c, x_t) * x_t) / per_example(determinant, x_t)
        p, q = self._row(wanted, t)
        return per_example(p, x_t) * x1 + per_example(q, x_t) * x0

    def _row(self, kind: Prediction, t: Times) -> tuple[Times, Times]:
        """The weights of (x1, x0) in a prediction of this kind."""
        one, zero = jnp.ones_like(t), jnp.zeros_like(t)
        if kind == "velocity":
            return _with_derivative(self.alpha, t)[1], _with_derivative(self.noise_std, t)[1]
        return {"data": (one, zero), "noise": (zero, one), "score": (zero, -1.0 / self.noise_std(t))}[kind]

    def change_per_velocity(self, kind: Prediction, t: Times) -> Times:
        """How much a prediction of this kind changes when the velocity changes by 1 and x_t does not.

        So a squared error of that kind is this number squared times the squared error of the velocity: losses on data, noise
        and score are one loss with different weights of time.

        Raises:
            ValueError: as `convert`.
        """
        ones, zeros = jnp.ones((t.shape[0], 1)), jnp.zeros((t.shape[0], 1))
        return self.convert(ones, zeros, t, given="velocity", wanted=kind)[:, 0]

    def _check_gaussian(self) -> None:
        if not self.gaussian_source:
            raise ValueError(
                "this path has no score: its source is not Gaussian. Convert to velocity, data or noise instead, or learn "
                "the score of a path with a latent by the objective 'interpolant'"
            )


def _with_derivative(f: Callable[[Any], Any], t: Times | Time) -> tuple[Any, Any]:
    """f(t) and f'(t)."""
    return jax.jvp(f, (t,), (jnp.ones_like(t),))
