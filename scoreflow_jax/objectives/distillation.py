"""Distillation of a rectified flow to k Euler steps (Liu et al. 2023, arXiv:2209.03003, section 2.2 and appendix).

Over pairs (x0, x1) of a teacher's noise and what it made of it, at the times 0, 1/k, ... (k - 1)/k at which k Euler steps
call the drift, the student's estimate of the end should be the pair's end:

    (1)  x1_hat = x_t + (1 - t) f(x_t, t, c),        loss = distance(x1_hat, x1).

"l2" is the squared error of f itself, |f - (x1 - x0)|^2. The published one-step figures took LPIPS instead.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from scoreflow_jax.models.lpips import SMALLEST
from scoreflow_jax.objectives.base import Objective, mean_square
from scoreflow_jax.paths import per_example
from scoreflow_jax.perceptual import Lpips
from scoreflow_jax.settings.objective import DistillationFields
from scoreflow_jax.typing import Condition, DriftFn, Images, PerExample, State, Times

Distance = Callable[[Images, Images], PerExample]


@dataclasses.dataclass(frozen=True)
class Distillation(DistillationFields, Objective):
    """(1) of the module.

    Attributes:
        path: the straight one.
        lpips: a perceptual distance in place of that of the two files.

    Raises:
        ValueError: another path, or LPIPS without its weights.
    """

    lpips: Any = None

    distils = True

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        if not self.path.is_straight:
            raise ValueError("distillation is of the straight path: set config.path.name to 'linear'")
        if self.distance == "lpips" and self.perceptual is None:
            raise ValueError(
                "distance is 'lpips', which needs its weights: set lpips_backbone and lpips_heads, or take 'l2'"
            )

    @property
    def perceptual(self) -> Distance | None:
        """LPIPS, whose weights are read when it is first computed: to sample takes none."""
        if self.lpips is not None or None in (self.lpips_backbone, self.lpips_heads):
            return self.lpips
        return Lpips(str(self.lpips_backbone), str(self.lpips_heads))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuses images that are too small for LPIPS, and points."""
        if self.distance == "lpips" and (len(shape) < 3 or min(shape[:2]) < SMALLEST):
            raise ValueError(f"distance is 'lpips', of images of {SMALLEST}x{SMALLEST} at least: take 'l2'")

    def prepare(self) -> None:
        """Reads LPIPS's weights."""
        if self.distance == "lpips" and isinstance(self.perceptual, Lpips):
            self.perceptual.read()

    def __call__(
        self, drift: DriftFn, x0: State, x1: State, t: Times, label: Condition | None, z: State | None = None
    ) -> PerExample:
        """Returns (1) for each example."""
        x_t = self.path.interpolant(t, x0, x1, z)
        f = drift(x_t, t, label)
        if self.distance == "l2":
            return mean_square(f - (x1 - x0))
        assert self.perceptual is not None
        return self.perceptual(x_t + per_example(1.0 - t, x_t) * f, x1)
