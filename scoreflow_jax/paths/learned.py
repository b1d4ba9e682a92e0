"""A path whose shape is learned, towards the shortest (Albergo and Vanden-Eijnden 2022, arXiv:2209.15571, section 3.2)."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from scoreflow_jax.paths.base import AffinePath
from scoreflow_jax.settings.path import LearnedFields
from scoreflow_jax.typing import Time, Times


@dataclasses.dataclass(frozen=True)
class LearnedPath(LearnedFields, AffinePath):
    """alpha = t + sum_n b_n sin(n pi t), sigma = 1 - t + sum_n a_n sin(n pi t): any a and b leave the ends where they are.

    The objective "interpolant" moves a and b to shorten the path of the density, the integral of E|v(x_t, t)|^2; no interpolant
    makes it shorter than the squared Wasserstein distance of the ends, which the optimal-transport map's reaches. An affine one
    can reach it between Gaussians of one shape: for N(0, I) and N(m, I) at alpha = t, sigma = sqrt(1 - t^2).

    Attributes:
        values: (b, a), 2 num_terms numbers; None: all 0, the straight path.
    """

    values: Any = None

    @property
    def num_parameters(self) -> int:
        """2 num_terms."""
        return 2 * self.num_terms

    def with_parameters(self, values: Float[Array, " parameters"]) -> "LearnedPath":
        """The path of these a and b."""
        return dataclasses.replace(self, values=values)

    def alpha(self, t: Times | Time) -> Times | Time:
        """t + sum_n b_n sin(n pi t)."""
        return jnp.asarray(t) + self._sum(t, 0)

    def sigma(self, t: Times | Time) -> Times | Time:
        """1 - t + sum_n a_n sin(n pi t)."""
        return 1.0 - jnp.asarray(t) + self._sum(t, 1)

    def _sum(self, t: Times | Time, which: int) -> Any:
        if self.values is None:
            return 0.0
        t, n = jnp.asarray(t), jnp.arange(1, self.num_terms + 1, dtype=jnp.float32)
        coefficients = jnp.asarray(self.values).reshape(2, self.num_terms)[which]
        waves = jnp.sin(jnp.pi * jnp.multiply.outer(t, n))
        return jnp.dot(waves, coefficients, precision="highest")
