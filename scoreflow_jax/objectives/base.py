"""What a loss is: a pure function of a drift and a batch, one number per example.

An objective knows neither the network nor the data set, so each works with every drift, and callers may weight or mask its
values before they take the mean.
"""

from typing import Protocol, runtime_checkable

import jax.numpy as jnp

from scoreflow_jax.typing import Condition, DriftFn, PerExample, State, Times


@runtime_checkable
class Objective(Protocol):
    """A training loss."""

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
        ...


def mean_square(x: State) -> PerExample:
    """The mean square over an example's dimensions."""
    return jnp.mean(jnp.square(x), axis=tuple(range(1, x.ndim)))
