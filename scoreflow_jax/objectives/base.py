"""What a loss is: a pure function of a drift and a batch, one number per example.

An objective knows neither the network nor the data set, so each works with every drift, and callers may weight or mask its
values before they take the mean.
"""

import abc
import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import optax

from scoreflow_jax.paths import Path
from scoreflow_jax.typing import Condition, DriftFn, PerExample, State, Times


@dataclasses.dataclass(frozen=True)
class Objective(abc.ABC):
    """A training loss.

    Attributes:
        path: how x_t comes from x0 and x1.
    """

    path: Path

    distils: ClassVar[bool] = False
    """Whether what is trained is to be sampled by the few steps that it is trained for."""
    two_times: ClassVar[bool] = False
    """Whether it takes a second time s of each example, drawn as t is, which the network is told beside the first."""

    @property
    def differentiates_time(self) -> bool:
        """Whether it takes the network's derivative by t; default: no."""
        return False

    @property
    def teacher_run(self) -> tuple[str | None, str | None]:
        """The workdir of a run that it learns from and the fingerprint of its weights, as far as is known; default: none."""
        return None, None

    @abc.abstractmethod
    def __call__(
        self,
        drift: DriftFn,
        x0: State,
        x1: State,
        t: Times,
        label: Condition | None,
        z: State | None = None,
    ) -> PerExample:
        """Returns the loss of each example, averaged over its dimensions.

        Args:
            drift: f(x, t, c), with the parameters being trained inside.
            x0: source points at t = 0.
            x1: data at t = 1.
            t: times in [0, 1], one per example.
            label: class labels of x1, or None.
            z: the latent of a path that has one, N(0, I); else None.
        """

    def check_path(self, path: Path) -> None:
        """Refuses a path of which the loss leaves something untrained; by default one with a latent, or a learned one.

        Raises:
            ValueError: naming it.
        """
        if path.has_latent or path.num_parameters:
            what = "has a latent, whose denoiser" if path.has_latent else "is learned, and its numbers"
            raise ValueError(
                f"config.path {what} no objective trains but 'interpolant': set name to that, or take another path"
            )

    def check_shape(self, shape: tuple[int, ...]) -> None:  # noqa: B027
        """Raises a ValueError for examples of a shape, without the batch, that it cannot compare; default: none."""

    def prepare(self) -> None:  # noqa: B027
        """Reads what it needs besides the data, which may take time or fail; default: nothing."""

    def adapt_optimizer(self, optimizer: optax.GradientTransformation, path: str) -> optax.GradientTransformation:
        """The optimizer as the loss wants it; default: as it is.

        Args:
            optimizer: of all parameters.
            path: the name of a learned path's numbers among them.
        """
        del path
        return optimizer


def mean_square(x: State) -> PerExample:
    """The mean square over an example's dimensions."""
    return jnp.mean(jnp.square(x), axis=tuple(range(1, x.ndim)))
