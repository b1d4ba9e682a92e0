"""The straight path of ScoreFlow (eq. 9) and of rectified flow."""

import dataclasses

from scoreflow_jax.paths.base import AffinePath
from scoreflow_jax.typing import Time, Times


@dataclasses.dataclass(frozen=True)
class LinearPath(AffinePath):
    """x_t = t x1 + (1 - t) x0: xbar(t) in algorithm 1 of ScoreFlow. Its velocity is x1 - x0."""

    @property
    def is_straight(self) -> bool:
        """Whether x_t is the paper's path: where it has no latent."""
        return not self.has_latent

    def alpha(self, t: Times | Time) -> Times | Time:
        """t."""
        return t

    def sigma(self, t: Times | Time) -> Times | Time:
        """1 - t."""
        return 1.0 - t
