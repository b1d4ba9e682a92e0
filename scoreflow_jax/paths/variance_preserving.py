"""Variance-preserving paths: those of Song et al. 2021 (arXiv:2011.13456, section 3.4 and appendix B), DDPM's, and a plain one.

The papers' time runs from data to noise; s = 1 - t is it. Their noise rate beta grows linearly in s,

    (1)  beta(s) = beta_min + s (beta_max - beta_min),    alpha = exp(-1/2 integral of beta over [0, s]).

alpha is not quite 0 at t = 0: 0.0066 with the published rates. sigma has an infinite slope at t = 1, so t_max stays below 1.
The published paths end with noise of more than a grey level in the data, by definition; the plain one, which has no such end,
goes on to where noise no longer shows (`python -m benchmarks.path_ends`).
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from scoreflow_jax.paths.base import AffinePath
from scoreflow_jax.settings.path import DDPMFields, VariancePreservingFields, VPFields
from scoreflow_jax.typing import Time, Times


@dataclasses.dataclass(frozen=True)
class VPPath(VPFields, AffinePath):
    """The VP SDE's: sigma = sqrt(1 - alpha^2), with (1) of the module (eq. 29 and 33 of Song et al.)."""

    def alpha(self, t: Times | Time) -> Times | Time:
        """(1) of the module."""
        return jnp.exp(self._log_alpha(t))

    def sigma(self, t: Times | Time) -> Times | Time:
        """sqrt(1 - alpha^2)."""
        return jnp.sqrt(-jnp.expm1(2.0 * self._log_alpha(t)))

    def _log_alpha(self, t: Times | Time) -> Times | Time:
        s = 1.0 - jnp.asarray(t)
        return -0.25 * s**2 * (self.beta_max - self.beta_min) - 0.5 * s * self.beta_min


@dataclasses.dataclass(frozen=True)
class SubVPPath(VPPath):
    """The sub-VP SDE's: the same alpha, sigma = 1 - alpha^2 (eq. 27 and appendix B of Song et al.)."""

    def sigma(self, t: Times | Time) -> Times | Time:
        """1 - alpha^2."""
        return -jnp.expm1(2.0 * self._log_alpha(t))


@dataclasses.dataclass(frozen=True)
class DDPMPath(DDPMFields, AffinePath):
    """DDPM's (Ho et al. 2020, arXiv:2006.11239): VP in N discrete steps whose rates go linearly from beta_first to beta_last.

    Step i = 0 ... N - 1 stands at t = 1 - i / (N - 1), with alpha^2 the product of 1 - beta over steps 0 to i. A network is
    trained at these times alone (config.times: a grid of N). Between them log alpha is interpolated by monotone cubic pieces with
    a continuous slope, so that an ODE can be solved without a kink at each step; the network's answers there are its own
    interpolation.
    """

    @property
    def is_chain(self) -> bool:
        """Yes."""
        return True

    def trained_times(self, times: Times) -> Times:
        """Its levels."""
        last = self.num_scales - 1
        return jnp.round(times * last) / last

    @functools.cached_property
    def _pieces(self) -> np.ndarray:
        """Where each piece begins, and coefficients of log alpha from that step to the next, as t goes (N - 1, 5): the sum of
        c_k u^k with u from 0 to 1.

        Cubics through the steps' own values with the mean of the two differences as the slope at each step, no more than three
        times the smaller one, which keeps them monotone (Fritsch and Carlson 1980, section 4). Made in float64: differences of
        float32 values would give the slope an error of 5e-5.
        """
        betas = np.linspace(self.beta_first, self.beta_last, self.num_scales)
        values = (0.5 * np.cumsum(np.log1p(-betas)))[::-1]
        rise = np.diff(values)
        line = np.concatenate(([2 * rise[0] - rise[:2][-1]], rise, [2 * rise[-1] - rise[-2:][0]]))  # beyond both ends
        mean, smaller = (line[:-1] + line[1:]) / 2, np.minimum(np.append(rise[0], rise), np.append(rise, rise[-1]))
        # At the ends too neither 0 nor less, which chains of a few steps would have.
        slopes = np.clip(mean, smaller / 4, 3.0 * smaller)
        start, stop = slopes[:-1], slopes[1:]
        cubics = values[:-1], start, 3 * rise - 2 * start - stop, start + stop - 2 * rise
        return np.stack((np.arange(len(rise)), *cubics), axis=-1).astype(np.float32)

    def _log_alpha(self, t: Times | Time) -> Times | Time:
        # The piece is chosen first, so that the derivative is its own on the grid too. t is not clipped: jnp.clip has half the
        # derivative where its argument is a limit, so at both ends.
        place = jnp.asarray(t) * (self.num_scales - 1)
        first = jnp.clip(jnp.floor(place), 0, self.num_scales - 2).astype(jnp.int32)
        # The piece says where it begins: XLA may compute a rounded place twice, once with another last bit, and a piece's values
        # at a distance from another's start are those of the wrong step.
        begin, constant, linear, square, cube = jnp.moveaxis(jnp.asarray(self._pieces)[first], -1, 0)
        u = place - begin
        return constant + u * (linear + u * (square + u * cube))

    def alpha(self, t: Times | Time) -> Times | Time:
        """The square root of the product of 1 - beta."""
        return jnp.exp(self._log_alpha(t))

    def sigma(self, t: Times | Time) -> Times | Time:
        """sqrt(1 - alpha^2)."""
        return jnp.sqrt(-jnp.expm1(2.0 * self._log_alpha(t)))


@dataclasses.dataclass(frozen=True)
class VariancePreservingPath(VariancePreservingFields, AffinePath):
    """The plain one of stochastic interpolants, alpha = t, sigma = sqrt(1 - t^2) (Albergo, Boffi and Vanden-Eijnden 2023).

    Its marginals move as straightly as those of the optimal map from N(0, I) to N(m, I): mean t m, variance 1. At t_max its noise
    is 0.0045, 0.6 grey levels of 256. At 0.999, the default until 2026-11, it was 0.0447, which cost data of
    deviation 0.0151 one bit/dim; ending here costs them 0.003, for 1.4 times the calls.
    """

    def alpha(self, t: Times | Time) -> Times | Time:
        """t."""
        return jnp.asarray(t)

    def sigma(self, t: Times | Time) -> Times | Time:
        """sqrt(1 - t^2)."""
        t = jnp.asarray(t)
        return jnp.sqrt((1.0 - t) * (1.0 + t))
