"""Distributions of the training times, each by its inverse cumulative function of u in [0, 1).

Any of them can be drawn with low discrepancy: one random shift for the batch and equal steps in u (Kingma et al. 2021,
arXiv:2107.00630, appendix I.1), so that every batch covers the times evenly.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp

from scoreflow_jax.settings.times import GridFields, LogitNormalFields, TimesFields, UShapedFields
from scoreflow_jax.typing import PRNGKey, Times


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeDistribution(TimesFields, abc.ABC):
    """How training times are drawn."""

    def draw(self, key: PRNGKey, count: int, t_min: float, t_max: float) -> Times:
        """Draws `count` times in [t_min, t_max].

        Args:
            key: that they are drawn from.
            count: how many.
            t_min, t_max: the ends of the range.
        """
        if self.low_discrepancy:
            shift = jax.random.uniform(key)
            u = jnp.mod(shift + jnp.arange(count, dtype=jnp.float32) / count, 1.0)
        else:
            u = jax.random.uniform(key, (count,))
        return t_min + (t_max - t_min) * self.quantile(u)

    @abc.abstractmethod
    def quantile(self, u: Times) -> Times:
        """The time in [0, 1] below which a share u is drawn."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform(TimeDistribution):
    """Every time alike, as the paper's."""

    def quantile(self, u: Times) -> Times:
        """u."""
        return u


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitNormal(LogitNormalFields, TimeDistribution):
    """sigmoid of N(mean, std^2), which favours the middle (Esser et al. 2024, arXiv:2403.03206, section 3.1)."""

    def quantile(self, u: Times) -> Times:
        """sigmoid(mean + std Phi^-1(u))."""
        inside = jnp.clip(u, 1e-7, 1.0 - 1e-7)
        return jax.nn.sigmoid(self.mean + self.std * jax.scipy.special.ndtri(inside))


@dataclasses.dataclass(frozen=True, kw_only=True)
class UShaped(UShapedFields, TimeDistribution):
    """Density proportional to exp(a t) + exp(a (1 - t)): favours both ends (Lee et al. 2024, arXiv:2405.20320, for reflow)."""

    def quantile(self, u: Times) -> Times:
        """1/2 + asinh((2 u - 1) sinh(a / 2)) / a, the inverse of 1/2 + sinh(a (t - 1/2)) / (2 sinh(a / 2))."""
        a = self.steepness
        return jnp.clip(0.5 + jnp.arcsinh((2.0 * u - 1.0) * jnp.sinh(0.5 * a)) / a, 0.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid(GridFields, TimeDistribution):
    """Equally likely times of a grid."""

    def quantile(self, u: Times) -> Times:
        """The grid's time number floor(count u)."""
        place = jnp.clip(jnp.floor(u * self.count), 0, self.count - 1)
        return place / (self.count - 1 if self.with_end else self.count)


TIMES: dict[str, type[TimeDistribution]] = {
    "uniform": Uniform,
    "logit_normal": LogitNormal,
    "u_shaped": UShaped,
    "grid": Grid,
}
"""Every distribution by the name that `config.times.name` gives it."""
