"""Denoising score matching (Vincent 2011; Song et al. 2021, arXiv:2011.13456, eq. 7), the loss of score SDEs and of DDPM.

With s(x, t, c) the score that the drift means on its path, and x_t = alpha x1 + sigma x0 from Gaussian noise x0,

    (1)  loss = w(t) |s(x_t, t, c) + x0 / sigma|^2,

w = sigma^2 by default, which makes it |predicted noise - x0|^2, DDPM's loss (Ho et al. 2020, eq. 14). With w = g^2
("likelihood") its mean over t bounds the negative log likelihood of the reverse SDE up to a constant (Song et al. 2021,
arXiv:2101.09258, theorem 1, which has g^2 / 2). All of it is the velocity's error with a weight of time: score, noise and
velocity are one thing (`AffinePath.convert`).
"""

import dataclasses

import jax.numpy as jnp

from scoreflow_jax.objectives.base import Objective, mean_square
from scoreflow_jax.paths import AffinePath
from scoreflow_jax.settings.objective import DenoisingFields
from scoreflow_jax.typing import Condition, DriftFn, PerExample, State, Times


@dataclasses.dataclass(frozen=True)
class DenoisingScoreMatching(DenoisingFields, Objective):
    """(1) of the module, averaged over dimensions.

    Attributes:
        path: affine, from a Gaussian source.

    Raises:
        ValueError: another path.
    """

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        if not isinstance(self.path, AffinePath) or not self.path.gaussian_source:
            raise ValueError(
                "denoising score matching needs an affine path from Gaussian noise: there is no score else"
            )

    def __call__(
        self, drift: DriftFn, x0: State, x1: State, t: Times, label: Condition | None, z: State | None = None
    ) -> PerExample:
        """Returns (1) for each example."""
        path = self.path
        assert isinstance(path, AffinePath)
        x_t = path.interpolant(t, x0, x1, z)
        # A drift made of a network's noise gives that noise back here up to rounding.
        error = drift(x_t, t, label) - path.velocity(t, x0, x1, z)
        weight = jnp.square(path.change_per_velocity("noise", t))
        if self.weight == "likelihood":
            weight = weight * path.diffusion_squared(t) / jnp.square(path.noise_std(t))
        return weight * mean_square(error)
