"""Distillation of a rectified flow to k Euler steps (Liu et al. 2023, arXiv:2209.03003, section 2.2 and appendix).

Over pairs (x0, x1) of a teacher's noise and what it made of it, at the times 0, 1/k, ... (k - 1)/k at which k Euler steps
call the drift, the student's estimate of the end should be the pair's end:

    (1)  x1_hat = x_t + (1 - t) f(x_t, t, c),        loss = distance(x1_hat, x1).

"l2" is the squared error of f itself, |f - (x1 - x0)|^2. The published one-step figures took LPIPS instead.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from scoreflow_jax.objectives.base import mean_square
from scoreflow_jax.paths import LinearPath, Path, per_example
from scoreflow_jax.typing import Condition, DriftFn, Images, PerExample, State, Times

DISTANCES = ("l2", "lpips")

Distance = Callable[[Images, Images], PerExample]


@dataclasses.dataclass(frozen=True)
class Distillation:
    """(1) of the module.

    Attributes:
        path: the straight one.
        distance: a name in `DISTANCES`.
        lpips: the perceptual distance, with its weights, where that is asked for.

    Raises:
        ValueError: another path, an unknown distance, or LPIPS without its weights.
    """

    path: Path
    distance: str = "l2"
    lpips: Any = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        if type(self.path) is not LinearPath:
            raise ValueError("distillation is of the straight path: set config.path.name to 'linear'")
        if self.distance not in DISTANCES:
            raise ValueError(f"distance is {self.distance!r}, expected one of {', '.join(DISTANCES)}")
        if self.distance == "lpips" and self.lpips is None:
            raise ValueError(
                "distance is 'lpips', which needs its weights: set lpips_backbone and lpips_heads, or take 'l2'"
            )

    def __call__(
        self, drift: DriftFn, x0: State, x1: State, t: Times, label: Condition | None, z: State | None = None
    ) -> PerExample:
        """Returns (1) for each example."""
        x_t = self.path.interpolant(t, x0, x1, z)
        f = drift(x_t, t, label)
        if self.distance == "l2":
            return mean_square(f - (x1 - x0))
        return self.lpips(x_t + per_example(1.0 - t, x_t) * f, x1)
