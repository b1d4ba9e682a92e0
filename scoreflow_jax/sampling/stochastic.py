"""Sampling by stochastic differential equations, and by the discrete chains that came before them.

On a path from Gaussian noise, or one with a latent, the drift f and the score s give a whole family of processes with the same
marginals (Song et al. 2021, arXiv:2011.13456, appendix D; Albergo, Boffi and Vanden-Eijnden 2023, arXiv:2303.08797, section 2.4):
for any e(t) >= 0

    (1)  dx = [f + e s] dt + sqrt(2 e) dW  from t = 0 to 1,      dx = [f - e s] dt + sqrt(2 e) dW  from t = 1 to 0.

e = 0 is the ODE, e = g^2 / 2 the reverse-time SDE of score_sde. Between two times t < u of an affine path the noising from u back
to t multiplies by a = alpha(t) / alpha(u) and adds variance G^2 = sigma(t)^2 - a^2 sigma(u)^2, so that E[x_u | x_t] =
(x_t + G^2 s) / a, and given the data as well the variance of x_u is sigma(u)^2 G^2 / sigma(t)^2. The samplers:

    euler_maruyama       (1) in equal steps, either direction
    reverse_diffusion    x_u = (2 - a) x_t + G^2 s + G noise                      (Song et al., eq. 46)
    ancestral            x_u = (x_t + G^2 s) / a + std noise                      (DDPM, eq. 11; Song et al., eq. 47)
    ddim                 x_u = alpha(u) data + sigma(u) noise, both as predicted  (Song, Meng and Ermon 2020, arXiv:2010.02502)
    predictor_corrector  reverse_diffusion, then Langevin steps at the new time   (Song et al., algorithms 4 and 5)

On DDPM's path the times are levels of its chain, at which alone its network was trained: of equal steps the nearest ones (the
linear choice of Song, Meng and Ermon 2020, appendix D.2, from the first level to the last; theirs is rounded down).

Noise of sample i at step k is drawn from fold_in(key_i, k): the same whatever the batch and the devices.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from scoreflow_jax.ode import Solution
from scoreflow_jax.paths import AffinePath, Path, Prediction
from scoreflow_jax.sampling.flow import WHOLE, Span
from scoreflow_jax.settings.solve import SamplerFields
from scoreflow_jax.typing import State, Time, Times

_GREY_LEVEL = 2.0 / 256.0  # in [-1, 1]
_NO_NOISE = 1e-6  # cos(pi / 2) is 4e-8 in float32

Keys = UInt32[Array, "batch words"]
"""Data of a key for each sample."""


@runtime_checkable
class Predictor(Protocol):
    """What is sampled with: velocity, data, noise or score at x, t (`paths.NetworkDrift.predict` with its condition inside)."""

    def __call__(self, kind: Prediction, x: State, t: Times, condition: Any) -> State:
        """The prediction of this kind."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler(SamplerFields):
    """How samples are drawn."""

    @property
    def is_ode(self) -> bool:
        """Whether samples are solutions of the ODE, by a solver."""
        return self.name == "ode"

    def check_path(self, path: Path) -> None:
        """Refuses a path that the sampler is not defined on.

        Raises:
            ValueError: with what it needs.
        """
        if self.is_ode or (self.name == "euler_maruyama" and self.noise == 0):
            return
        scored = isinstance(path, AffinePath) and (path.gaussian_source or path.has_latent)
        if not scored:
            raise ValueError(
                f"name is {self.name!r}, which needs a score: take a path from Gaussian noise, or one with a latent, or 'ode'"
            )
        if self.schedule == "gamma" and not path.has_latent:
            raise ValueError("schedule is 'gamma', but the path has no latent: give it one, or take another schedule")
        needs_noise = self.name != "euler_maruyama" or self.schedule == "path"
        if needs_noise and not path.gaussian_source:
            raise ValueError(
                f"name is {self.name!r} with schedule {self.schedule!r}, which needs a path from Gaussian noise: between two "
                "data sets take 'euler_maruyama' with schedule 'gamma', 'constant' or 'sigma'"
            )

    def span(self, path: Path) -> Span:
        """The times between which steps are made, from noise to data."""
        start, stop = path.t_min, path.t_max
        if not isinstance(path, AffinePath) or not path.gaussian_source:
            return max(start, self.margin), min(stop, 1.0 - self.margin)
        with jax.ensure_compile_time_eval():
            no_data = float(path.alpha(jnp.float32(start))) == 0  # then g is infinite
            no_noise = float(path.noise_std(jnp.float32(stop))) < _NO_NOISE  # then the score is
        return max(start, self.margin * no_data), min(stop, 1.0 - self.margin * no_noise)

    def denoises(self, path: Path) -> bool:
        """Whether samples end with the expected data. Those of the ODE do where noise of a grey level or more is left in them.

        So they do on the published paths, VP's, DDPM's and VE's, as score_sde's do. With less, rounding hides it.
        """
        if self.name != "ode" or not self.denoise:
            return self.denoise
        return isinstance(path, AffinePath) and path.gaussian_source and path.noise_left > _GREY_LEVEL

    def network_calls(self, path: Path) -> int:
        """The network calls of one sample: one a step and correction, and one where the expected data end it (`denoise`).

        Where drift and score are told by a latent, from two calls, a step takes two.
        """
        twice = self.name == "euler_maruyama" and self.noise > 0 and not path.gaussian_source
        per_step = 1 + self.corrector_steps if self.name == "predictor_corrector" else 1 + twice
        return self.num_steps * per_step + self.denoise


def sample_keys(key: Array, indices: Any) -> Keys:
    """The keys of these samples, fold_in(key, i), as plain numbers that can be cut into batches."""
    fold = jax.vmap(lambda i: jax.random.key_data(jax.random.fold_in(key, i)))
    return fold(jnp.asarray(indices))


def sample_stochastically(
    predict: Predictor,
    path: AffinePath,
    x: State,
    condition: Any,
    keys: Keys,
    sampler: Sampler,
    *,
    span: Span = WHOLE,
) -> Solution:
    """Carries x from the first time of the span to the last, by any sampler but "ode".

    Args:
        predict: what the network says.
        path: that it was trained on.
        x: the states to start from: noise times `path.prior_scale`; for euler_maruyama also data, with a span that descends.
        condition: of each example.
        keys: of `sample_keys`.
        sampler: which, and how.
        span: from `Sampler.span`; reversed to go from data to noise, which only euler_maruyama does.

    Returns:
        The solution with the samples in [-1, 1] and the number of network calls. Nothing is raised where they are not finite.

    Raises:
        ValueError: a descending span for another sampler.
    """
    start, stop = span
    if stop < start and sampler.name != "euler_maruyama":
        raise ValueError(f"{sampler.name} goes from noise to data only: take 'euler_maruyama' to go from data to noise")
    times = step_times(path, span, sampler.num_steps)
    batch = lambda t: jnp.broadcast_to(t, x.shape[:1])  # noqa: E731
    predicted = lambda kind, x, t: predict(kind, x, batch(t), condition)  # noqa: E731
    draw = lambda k: _noise(keys, k, x.shape[1:])  # noqa: E731
    step = _STEPS[sampler.name]
    corrections = sampler.corrector_steps if sampler.name == "predictor_corrector" else 0

    def body(k: Array, x: State) -> State:
        t, u = times[k], times[k + 1]
        x = step(predicted, path, sampler, x, t, u, draw(k * (1 + corrections)))
        for i in range(corrections):
            x = _langevin(predicted, path, sampler, x, t, u, draw(k * (1 + corrections) + i + 1))
        return x

    x = jax.lax.fori_loop(0, sampler.num_steps, body, x)
    if sampler.denoise:
        x = _denoised(predicted, path, x, times[-1], stop > start)
    return Solution.by_calls(x, sampler.network_calls(path), x)


def step_times(path: Path, span: Span, num_steps: int) -> Float[Array, " times"]:
    """The times before, between and after so many steps: equally far apart, or the levels of DDPM's chain nearest to those.

    More steps than levels between ask for some levels twice, between which nothing moves.

    Args:
        path: of the model.
        span: the first time and the last, which descend from data to noise.
        num_steps: how many steps.
    """
    return path.trained_times(jnp.linspace(*span, num_steps + 1))


Predict = Callable[[Prediction, State, Time], State]


def _noise(keys: Keys, k: Array, shape: tuple[int, ...]) -> State:
    """N(0, I) for each sample at step k."""
    draw = lambda data: jax.random.normal(jax.random.fold_in(jax.random.wrap_key_data(data), k), shape)  # noqa: E731
    return jax.vmap(draw)(keys)


def _euler_maruyama(
    predicted: Predict, path: AffinePath, sampler: Sampler, x: State, t: Time, u: Time, noise: State
) -> State:
    """(1) of the module; the step u - t is negative from data to noise."""
    step = u - t
    f = predicted("velocity", x, t)
    if sampler.noise == 0:
        return x + step * f
    strength = {
        "path": lambda: 0.5 * path.diffusion_squared(t),
        "constant": lambda: jnp.ones_like(t),
        "sigma": lambda: path.sigma(t),
        "gamma": lambda: path.gamma(t),
    }[sampler.schedule]()
    e = sampler.noise * jnp.asarray(strength)
    if path.gaussian_source:  # the velocity has the score in it: one network call
        score = path.convert(f, x, jnp.broadcast_to(t, x.shape[:1]), given="velocity", wanted="score")
    else:
        score = predicted("score", x, t)
    return x + step * f + jnp.abs(step) * e * score + jnp.sqrt(2.0 * e * jnp.abs(step)) * noise


def _transition(path: AffinePath, t: Time, u: Time) -> tuple[Time, Time]:
    """a and G^2 of the noising from u back to t < u."""
    a = path.alpha(t) / path.alpha(u)
    return a, jnp.maximum(path.noise_std(t) ** 2 - (a * path.noise_std(u)) ** 2, 0.0)


def _reverse_diffusion(
    predicted: Predict, path: AffinePath, sampler: Sampler, x: State, t: Time, u: Time, noise: State
) -> State:
    del sampler
    a, variance = _transition(path, t, u)
    return (2.0 - a) * x + variance * predicted("score", x, t) + jnp.sqrt(variance) * noise


def _ancestral(
    predicted: Predict, path: AffinePath, sampler: Sampler, x: State, t: Time, u: Time, noise: State
) -> State:
    a, variance = _transition(path, t, u)
    mean = (x + variance * predicted("score", x, t)) / a
    spread = path.noise_std(u) / path.noise_std(t) if sampler.variance == "posterior" else 1.0
    return mean + jnp.sqrt(variance) * spread * noise


def _ddim(predicted: Predict, path: AffinePath, sampler: Sampler, x: State, t: Time, u: Time, noise: State) -> State:
    del sampler, noise
    data = predicted("data", x, t)
    noise_at = (x - path.alpha(t) * data) / path.noise_std(t)
    return path.alpha(u) * data + path.noise_std(u) * noise_at


def _langevin(
    predicted: Predict, path: AffinePath, sampler: Sampler, x: State, t: Time, u: Time, noise: State
) -> State:
    """One corrector step at u (Song et al. 2021, algorithms 4 and 5: a^2 is 1 - beta, on VE's path 1)."""
    score = predicted("score", x, u)
    lengths = lambda v: jnp.mean(jnp.sqrt(jnp.sum(jnp.square(v), axis=tuple(range(1, v.ndim)))))  # noqa: E731
    a, _ = _transition(path, t, u)
    step = 2.0 * (a * sampler.snr * lengths(noise) / lengths(score)) ** 2
    return x + step * score + jnp.sqrt(2.0 * step) * noise


_STEPS: dict[str, Callable[..., State]] = {
    "euler_maruyama": _euler_maruyama,
    "reverse_diffusion": _reverse_diffusion,
    "ancestral": _ancestral,
    "predictor_corrector": _reverse_diffusion,
    "ddim": _ddim,
}


def _denoised(predicted: Predict, path: AffinePath, x: State, t: Time, forwards: bool) -> State:
    """The expected end: of the data where the path knows it, else by one step of the ODE to t = 1 or t = 0."""
    if forwards and path.gaussian_source:
        return predicted("data", x, t)
    return x + ((1.0 if forwards else 0.0) - t) * predicted("velocity", x, t)
