"""What a network's output means: one drift, under the name that its authors trained it by.

A network may predict the velocity (ScoreFlow, rectified flow), the noise (VP, sub-VP and DDPM), the score (VE) or the data, and
be told the time t, the papers' 1 - t, or the noise level. All of these become f(x, t, c) here, and each other, by the path's
2x2 solve (`base.py`); nothing above this module knows which it was.

On a path with a latent a network has two outputs, v = E[alpha' x1 + sigma' x0 | x_t] and eta = E[z | x_t], and the drift is
v + gamma'(t) eta (Albergo, Boffi and Vanden-Eijnden 2023, arXiv:2303.08797, eq. 2.10): neither is singular where gamma' is.
"""

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp

from scoreflow_jax.paths.base import AffinePath, Path, per_example
from scoreflow_jax.settings.path import ParameterizationFields, Prediction
from scoreflow_jax.typing import Condition, DriftFn, NetworkFn, PerExample, State, Times

_NOTHING = 1e-6  # cos(pi / 2) is 4e-8 in float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameterization(ParameterizationFields):
    """Between a network and the drift.

    `scale_input` is table 1 of Karras et al. 2022 (arXiv:2206.00364), with data of variance 1.
    """

    def check_path(self, path: Path) -> None:
        """Refuses a path on which this means nothing.

        Raises:
            ValueError: a prediction that its drift cannot be made of.
        """
        if self.predicts == "velocity" and self.told != "sigma" and not self.scale_input:
            return
        if not isinstance(path, AffinePath):
            raise ValueError(f"{type(path).__name__} is no affine path: set predicts to 'velocity' and told to 't'")
        if path.has_latent and self.predicts != "velocity":
            raise ValueError(f"predicts is {self.predicts!r}, but on a path with a latent it has to be 'velocity'")
        if self.predicts == "score" and not path.gaussian_source:
            raise ValueError("predicts is 'score', but the source is not Gaussian: there is none")
        self._check_ends(path)

    def _check_ends(self, path: AffinePath) -> None:
        """Refuses times at which the prediction leaves the velocity open: at pure noise, or at the data themselves.

        Raises:
            ValueError: naming the end and what to set.
        """
        with jax.ensure_compile_time_eval():
            no_data = abs(float(path.alpha(jnp.float32(path.t_min)))) < _NOTHING
            no_noise = abs(float(path.noise_std(jnp.float32(path.t_max)))) < _NOTHING
        if self.predicts in ("noise", "score") and no_data:
            raise ValueError(
                f"predicts is {self.predicts!r}, which leaves the velocity open where x_t is noise alone, as at t_min = "
                f"{path.t_min}: set config.path.t_min to 1e-3, say, or predicts to 'velocity' or 'data'"
            )
        if self.predicts in ("data", "score") and no_noise:
            raise ValueError(
                f"predicts is {self.predicts!r}, which leaves the velocity open where x_t is the data, as at t_max = "
                f"{path.t_max}: set config.path.t_max to 0.999, say, or predicts to 'velocity'"
            )


@dataclasses.dataclass(frozen=True)
class NetworkDrift:
    """The drift f(x, t, c) that a network gives on a path, and what else follows from it.

    Attributes:
        network: from points, times as it is told them, and conditions to its output; on a path with a latent twice the channels.
        path: of its training.
        parameterization: what its output is.
    """

    network: DriftFn | NetworkFn
    path: Path
    parameterization: Parameterization = Parameterization()

    def __call__(self, x: State, t: Times, condition: Condition | None) -> State:
        """The velocity f(x, t, c) = dx/dt of the ODE."""
        if not self.path.has_latent:
            return self.predict("velocity", x, t, condition)
        assert isinstance(self.path, AffinePath)
        velocity, denoiser = self.heads(x, t, condition)
        slope = jax.jvp(self.path.gamma, (t,), (jnp.ones_like(t),))[1]
        return velocity + per_example(slope, x) * denoiser

    def mean_velocity(
        self, x: State, t: Times, s: Times, condition: Condition | None, guidance: PerExample | None = None
    ) -> State:
        """u(x, t, s, c), the mean of dx/dt from t to s, of a network that is told two times; the drift for s = t.

        Args:
            x: points, (batch, ...), at the times t.
            t: their times.
            s: the times that their solutions are followed to, before or after t.
            condition: of each; None: there is none.
            guidance: weights of the guided ODE, of a network that is told them; None: 1.
        """
        assert self.parameterization.predicts == "velocity"
        return self._output(x, t, condition, s - t, guidance)

    def predict(self, kind: Prediction, x: State, t: Times, condition: Condition | None) -> State:
        """Returns what is predicted of the velocity, the data, the noise or the score given x_t = x.

        Args:
            kind: "velocity", "data", "noise" or "score".
            x: points, (batch, ...).
            t: their times.
            condition: of each; None: there is none.

        Raises:
            ValueError: the path has no such thing: a score needs a Gaussian source or a latent.
        """
        path, given = self.path, self.parameterization.predicts
        if path.has_latent:
            assert isinstance(path, AffinePath)
            if kind == "score" and not path.gaussian_source:
                return -self.heads(x, t, condition)[1] / per_example(path.gamma(t), x)
            return path.convert(self(x, t, condition), x, t, given="velocity", wanted=kind)
        output = self._output(x, t, condition)
        if given == kind:
            return output
        if not isinstance(path, AffinePath):
            raise ValueError(f"{type(path).__name__} is no affine path: it has a velocity only, no {kind}")
        return path.convert(output, x, t, given=given, wanted=kind)

    def heads(self, x: State, t: Times, condition: Condition | None) -> tuple[State, State]:
        """Returns v and eta, the two outputs of a network on a path with a latent.

        Args:
            x: points, (batch, ...).
            t: their times.
            condition: of each; None: there is none.
        """
        velocity, denoiser = jnp.split(self._output(x, t, condition), 2, axis=-1)
        return velocity, denoiser

    def _output(
        self,
        x: State,
        t: Times,
        condition: Condition | None,
        jump: Times | None = None,
        guidance: PerExample | None = None,
    ) -> State:
        """The network's output, of data in [-1, 1]; of jumps s - t where they are given."""
        p, told = self.parameterization, t
        if p.told == "reversed":
            told = 1.0 - t
        elif p.told == "sigma":
            assert isinstance(self.path, AffinePath)
            told = self.path.sigma(t) * (0.5 if p.unit_range else 1.0)
        seen = 0.5 * (x + 1.0) if p.unit_range else x
        if p.scale_input:
            assert isinstance(self.path, AffinePath)
            seen = seen / per_example(jnp.hypot(self.path.alpha(t), self.path.noise_std(t)), x)
        if jump is None:
            output = self.network(seen, told, condition)
        else:
            output = cast("NetworkFn", self.network)(seen, told, condition, jump, guidance)
        if not p.unit_range:
            return output
        match p.predicts:  # x = 2 x' - 1
            case "data":
                return 2.0 * output - 1.0
            case "score":
                return 0.5 * output
            case "velocity":
                return 2.0 * output
            case _:
                return output
