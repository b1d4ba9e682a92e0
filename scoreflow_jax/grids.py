"""Where fixed steps meet: equal ones, EDM's, those of equal local error, or as stated.

A grid is a rising function of k / num_steps from 0 to 1, of which 0 stands for the noise end of a solve and 1 for the data's. So
both directions go through the same times, and one compiled program serves every number of steps.

**edm**: noise levels sigma_i = (80^(1/7) + i / (n - 1) (0.002^(1/7) - 80^(1/7)))^7 for i < n, and 0 at i = n (Karras et al.
2022, arXiv:2206.00364, eq. 5), at the times where noise / data is that level: t = 1 / (1 + sigma) on the linear path. At
sigma = 80 that is t = 0.0123, where EDM's own samplers begin, with noise in place of the state there. Ours is an ODE from t = 0
that is to be undone again, so the first step begins at 0 and goes on to the second of these times; the others are EDM's. A path
that begins with less noise than 80, or ends with more than 0.002, has its own first or last level in place of those.

**measured**: each step has an equal part of the drift's own local error, as one adaptive solve has found it (`equal_parts`).
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from scoreflow_jax.settings.solve import Grid
from scoreflow_jax.typing import Time, Times

SIGMA_MAX, SIGMA_MIN, RHO = 80.0, 0.002, 7.0
"""EDM's noise levels (Karras et al. 2022, table 1)."""

PARTS = 32
"""Equal parts of the error between which `measured` interpolates."""


@runtime_checkable
class Levels(Protocol):
    """What a grid, or a method of several steps, asks of a path: `AffinePath` without a latent."""

    t_min: float
    t_max: float

    def alpha(self, t: Times | Time) -> Times | Time:
        """Weight of the data."""
        ...

    def noise_std(self, t: Times | Time) -> Times | Time:
        """Deviation of the noise."""
        ...

    def time_at(self, log_snr: Times | Time) -> Times | Time:
        """The time at which log(alpha^2 / noise_std^2) has this value."""
        ...

    def convert(self, value: Any, x_t: Any, t: Times, *, given: Any, wanted: Any) -> Any:
        """Turns one prediction into another."""
        ...


def edm_sigma(k: ArrayLike, count: ArrayLike, first: ArrayLike = np.inf, last: ArrayLike = 0.0) -> Float[Array, "*k"]:
    """EDM's k-th noise level of so many steps, 80 at k = 0 and 0 at k = count (Karras et al. 2022, eq. 5).

    Args:
        k: which.
        count: of the steps.
        first, last: the levels at the ends of the path, which the grid does not leave: all of its levels are different.
    """
    noisy = (
        jnp.asarray(last) > SIGMA_MIN
    )  # then the last level is the path's end itself, else the last but one is SIGMA_MIN
    top, bottom = (x ** (1 / RHO) for x in (jnp.minimum(SIGMA_MAX, first), jnp.maximum(SIGMA_MIN, last)))
    part = jnp.asarray(k) / jnp.maximum(jnp.asarray(count) - jnp.where(noisy, 0, 1), 1)
    return jnp.where(jnp.asarray(k) >= count, last, (top + part * (bottom - top)) ** RHO)


def equal_parts(ends: Float[np.ndarray, " steps"], errors: Float[np.ndarray, " steps"]) -> Float[np.ndarray, " parts"]:
    """Times that cut [0, 1] into `PARTS` parts of equal local error.

    The local error of a second-order method rises as the third power of a step's length. So a step that an adaptive solve made
    with error e is worth e^(1/3) steps of error 1, and the sum of these over the steps rises with t as the number of steps of
    equal error does, whatever lengths that solve took.

    Args:
        ends: where its steps ended, rising, the last one at 1.
        errors: of each, the difference of its second-order solution.

    Returns:
        PARTS + 1 times from 0 to 1.
    """
    worth = np.cumsum(np.cbrt(np.maximum(np.asarray(errors, np.float64), 1e-30)))
    times = np.interp(np.arange(PARTS + 1) / PARTS, [0.0, *worth / worth[-1]], [0.0, *np.asarray(ends, np.float64)])
    times[[0, -1]] = 0.0, 1.0
    return times


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Steps:
    """The times between which fixed steps are made, t0 at k = 0 and t1 at k = count.

    Attributes:
        count: of the steps, which may be traced.
        parts: `equal_parts`, of the grid "measured".
        t0, t1: the ends of the solve; t1 may be below t0.
        grid: its name.
        between: the inner times themselves, ascending; (): the grid's.
        path: whose noise levels "edm" asks for; None: the linear one.
    """

    count: Any
    parts: Any
    t0: float = dataclasses.field(metadata={"static": True})
    t1: float = dataclasses.field(metadata={"static": True})
    grid: Grid = dataclasses.field(default="uniform", metadata={"static": True})
    between: tuple[float, ...] = dataclasses.field(default=(), metadata={"static": True})
    path: Levels | None = dataclasses.field(default=None, metadata={"static": True})

    def __call__(self, k: ArrayLike) -> Time:
        """The k-th time."""
        k, kind = jnp.asarray(k), jnp.result_type(float)
        if self.between:
            inner = self.between if self.t0 < self.t1 else self.between[::-1]
            return jnp.asarray([self.t0, *inner, self.t1], kind)[jnp.clip(k, 0, len(inner) + 1)]
        if self.grid == "uniform":
            found = self.t0 + (self.t1 - self.t0) * (k / self.count).astype(kind)
        else:
            low, high = min(self.t0, self.t1), max(self.t0, self.t1)
            found = low + (high - low) * self._part(k if self.t0 < self.t1 else self.count - k).astype(kind)
        return jnp.where(k >= self.count, self.t1, jnp.where(k <= 0, self.t0, found)).astype(kind)

    def _part(self, k: Array) -> Array:
        """The k-th time from the noise's end, of a solve from 0 to 1."""
        if self.grid == "measured":
            return jnp.interp(k / self.count, jnp.linspace(0.0, 1.0, len(self.parts)), jnp.asarray(self.parts))
        if self.path is None:
            return 1.0 / (1.0 + edm_sigma(k, self.count))
        ends = jnp.asarray([self.path.t_min, self.path.t_max])
        data, noise = jnp.abs(self.path.alpha(ends)), self.path.noise_std(ends)
        level = jnp.where(data > 0, noise / jnp.where(data > 0, data, 1.0), jnp.inf)
        sigma = edm_sigma(k, self.count, level[0], level[1])
        t = self.path.time_at(-2.0 * jnp.log(jnp.maximum(sigma, 1e-30)))
        return (t - self.path.t_min) / (self.path.t_max - self.path.t_min)
