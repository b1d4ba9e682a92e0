"""The VE SDE's path (Song et al. 2021, arXiv:2011.13456, eq. 9 and 30): data plus ever more noise, never less data."""

import dataclasses

import jax.numpy as jnp

from scoreflow_jax.paths.base import AffinePath
from scoreflow_jax.settings.path import VEFields
from scoreflow_jax.typing import Time, Times


@dataclasses.dataclass(frozen=True)
class VEPath(VEFields, AffinePath):
    """x_t = x1 + sigma(t) x0 with sigma from sigma_max at t = 0 down to sigma_min at t = 1, evenly in the logarithm.

    The state at t = 0 is sigma_max x0 and a little data; solves start from N(0, sigma_max^2 I). The published levels are of data
    in [0, 1]: ours, in [-1, 1], need them doubled.
    """

    @property
    def prior_scale(self) -> float:
        """sigma_max."""
        return self.sigma_max

    def alpha(self, t: Times | Time) -> Times | Time:
        """1."""
        return jnp.ones_like(jnp.asarray(t))

    def sigma(self, t: Times | Time) -> Times | Time:
        """sigma_min (sigma_max / sigma_min)^(1 - t)."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** (1.0 - jnp.asarray(t))
