"""The trigonometric path of stochastic interpolants (Albergo and Vanden-Eijnden 2022, arXiv:2209.15571, eq. 5)."""

import dataclasses

import jax.numpy as jnp

from scoreflow_jax.paths.base import AffinePath
from scoreflow_jax.typing import Time, Times


@dataclasses.dataclass(frozen=True)
class TrigonometricPath(AffinePath):
    """x_t = sin(pi t / 2) x1 + cos(pi t / 2) x0: the variance stays 1 between independent ends of variance 1."""

    def alpha(self, t: Times | Time) -> Times | Time:
        """sin(pi t / 2)."""
        return jnp.sin(0.5 * jnp.pi * jnp.asarray(t))

    def sigma(self, t: Times | Time) -> Times | Time:
        """cos(pi t / 2)."""
        return jnp.cos(0.5 * jnp.pi * jnp.asarray(t))
