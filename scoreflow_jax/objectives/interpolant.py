"""The losses of stochastic interpolants: velocity, denoiser, and the interpolant's own shape.

Albergo and Vanden-Eijnden 2022 (arXiv:2209.15571) and, with the latent z, Albergo, Boffi and Vanden-Eijnden 2023
(arXiv:2303.08797). With I_t = alpha(t) x1 + sigma(t) x0 and x_t = I_t + gamma(t) z a network learns

    (1)  v = E[dI_t/dt | x_t]  by  |v(x_t) - dI_t/dt|^2,       eta = E[z | x_t]  by  |eta(x_t) - z|^2,

and the drift is v + gamma' eta, the score -eta / gamma. Without a latent it is the velocity's loss alone.

Shortening the path (2022, section 3.2): for a fixed interpolant the least value of

    (2)  G = E[|v(x_t)|^2 - 2 v(x_t) . dI_t/dt]

over v is minus the length integral E|v(x_t)|^2, so the interpolant ascends G while v descends it. Both get their gradient
from one number here: the path's own numbers receive it with the sign turned (`turned`). How fast they move is not the
gradient's affair, of which Adam forgets the size: their update is multiplied by `path_rate` (`scale_update`).
"""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from scoreflow_jax.objectives.base import Objective, mean_square
from scoreflow_jax.paths import Path
from scoreflow_jax.settings.objective import InterpolantFields
from scoreflow_jax.typing import Condition, DriftFn, PerExample, PyTree, State, Times


@runtime_checkable
class TwoHeaded(Protocol):
    """A drift that also says what it is made of."""

    def heads(self, x: State, t: Times, condition: Condition | None) -> tuple[State, State]:
        """Returns v and eta of (1).

        Args:
            x: points of the path.
            t: their times.
            condition: of each; None: there is none.
        """
        ...


@runtime_checkable
class WithPath(Protocol):
    """A drift that was made with the path's present numbers."""

    path: Path


@dataclasses.dataclass(frozen=True)
class Interpolant(InterpolantFields, Objective):
    """(1), or (2) where the path is learned, averaged over dimensions.

    Attributes:
        path: the interpolant.
    """

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ValueError: a learned path with a latent, where (2) is not the length's gradient.
        """
        super().__post_init__()
        if self.path.num_parameters and self.path.has_latent:
            raise ValueError(
                "the path is learned and has a latent: only without one is it shortened. Set latent to 'none'"
            )

    def __call__(
        self, drift: DriftFn, x0: State, x1: State, t: Times, label: Condition | None, z: State | None = None
    ) -> PerExample:
        """Returns the loss of each example: v's error, plus the denoiser's on a path with a latent.

        Raises:
            ValueError: a latent, but a drift without `heads`.
        """
        path = drift.path if isinstance(drift, WithPath) else self.path
        x_t, rate = path.interpolant(t, x0, x1, z), path.velocity(t, x0, x1)
        if not path.has_latent:
            v = drift(x_t, t, label)
            # |v|^2 - 2 v . dI/dt has the path's gradient; |dI/dt|^2 is added without one, for a loss that is an error.
            return mean_square(v) - 2.0 * _mean_product(v, rate) + mean_square(jax.lax.stop_gradient(rate))
        if not isinstance(drift, TwoHeaded) or z is None:
            raise ValueError("a path with a latent needs a network of two outputs, and z")
        v, denoiser = drift.heads(x_t, t, label)
        return mean_square(v - rate) + mean_square(denoiser - z)

    def check_path(self, path: Path) -> None:
        """Takes every path: latent and numbers are what it trains."""

    def adapt_optimizer(self, optimizer: optax.GradientTransformation, path: str) -> optax.GradientTransformation:
        """The optimizer, with the updates of a learned path's numbers multiplied by `path_rate`."""
        return scale_update(optimizer, path, self.path_rate) if self.path.num_parameters else optimizer


def scale_update(optimizer: optax.GradientTransformation, name: str, rate: float) -> optax.GradientTransformation:
    """The optimizer with the updates of params[name] multiplied by `rate`: their own learning rate, whatever Adam made of it.

    Args:
        optimizer: whose updates.
        name: of the parameters, at the top of the tree.
        rate: the factor.
    """

    def scaled(updates: PyTree, params: PyTree | None) -> PyTree:
        del params
        return {**updates, name: rate * updates[name]}

    return optax.chain(optimizer, optax.stateless(scaled))


def turned(values: Float[Array, " parameters"]) -> Float[Array, " parameters"]:
    """The same numbers, whose gradient is minus what it would be: they ascend where the others descend."""
    return 2.0 * jax.lax.stop_gradient(values) - values


def _mean_product(a: State, b: State) -> PerExample:
    return jnp.mean(a * b, axis=tuple(range(1, a.ndim)))
