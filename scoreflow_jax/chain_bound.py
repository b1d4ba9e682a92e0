"""DDPM's variational bound on the log probability of data, term by term (Ho, Jain and Abbeel 2020, arXiv:2006.11239, eq. 5).

The chain of N noisings x_1 ... x_N of x_0 = x (in our time x_i stands at t = 1 - (i - 1) / (N - 1)) is undone by Gaussian steps
p(x_{i-1} | x_i), whose means `ancestral` sampling takes (`sampling/stochastic.py`). Then

    log p(x) >= log p(x | x_1) - sum over i = 2 .. N of KL(q(x_{i-1} | x_i, x) | p(x_{i-1} | x_i)) - KL(q(x_N | x) | N(0, I)),

in expectation over q. A step's variance is that of q given the data ("posterior") or q(x_i | x_{i-1})'s beta ("forward"). The
last step to x, of variance 1 - alpha(1)^2, gives the probability of a grey level: the Gaussian's mass in its cell, the outermost
cells reaching to infinity (eq. 13). Points and dequantized images have a density there: a network that was trained on dequantized
images knows nothing of levels, and to tell it where in a cell they lie would be paid for.
"""

import math
import typing
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scoreflow_jax.ode import Solution
from scoreflow_jax.paths import AffinePath, DDPMPath
from scoreflow_jax.paths.base import per_example
from scoreflow_jax.randomness import key_of
from scoreflow_jax.sampling.stochastic import Keys, Predictor
from scoreflow_jax.settings.solve import Variance
from scoreflow_jax.typing import Condition, PerExample, State


class Cells(NamedTuple):
    """What a grey level covers: around its value, except at both ends of the range, -1 and 1.

    Attributes:
        half_width: of a cell; 0 for points and for dequantized images, which have a density.
    """

    half_width: float = 0.0

    @classmethod
    def of(cls, levels: int) -> "Cells":
        """The cells of `levels` values from -1 to 1."""
        return cls(1.0 / (levels - 1))


NO_CELLS = Cells()
"""No cells: data that have a density."""


def chain_bound(
    predict: Predictor,
    path: DDPMPath,
    x: State,
    condition: Condition | None,
    keys: Keys,
    *,
    cells: Cells = NO_CELLS,
    variance: str = "posterior",
    num_calls: int | None = None,
    replicates: int = 1,
) -> Solution:
    """The bound for each example, in nats: of the probability of its grey levels, or of a density for points.

    Args:
        predict: what the network says; noise and data are asked for.
        path: DDPM's.
        x: data: at the values of their levels where there are cells.
        condition: of each example.
        keys: of `sampling.sample_keys`.
        cells: of the levels.
        variance: a name in `settings.solve.Variance`.
        num_calls: network calls of all replicates together: each makes the last step and so many of the N - 1 others, one in each
            of equal parts of the chain; None: all of them.
        replicates: bounds estimated independently.

    Returns:
        The solution with y = (bound (batch,), its standard error over replicates (batch,), NaN for one).

    Raises:
        ValueError: an unknown variance, or a number of calls that does not go with the replicates and N.
    """
    steps = path.num_scales
    num_calls = steps * replicates if num_calls is None else num_calls
    drawn = num_calls // replicates - 1
    if variance not in (known := typing.get_args(Variance)):
        raise ValueError(f"variance is {variance!r}, expected one of {', '.join(known)}")
    if num_calls % replicates or not 1 <= drawn < steps:
        raise ValueError(
            f"num_calls is {num_calls}, expected 2 to {steps} for each of the {replicates} replicates, the same for all"
        )

    def add(k: Array, sums: Float[Array, "replicates batch"]) -> Float[Array, "replicates batch"]:
        """Takes off the divergence of one step, times the steps that it stands for."""
        replicate, part = k // drawn, k % drawn
        i = _steps_drawn(keys, k, part, drawn, steps)
        t, u = (1.0 - j / (steps - 1) for j in (i, i - 1))
        divergence = _divergence(predict, path, x, condition, (t, u), _noise(keys, k, x.shape[1:]), variance)
        return sums.at[replicate].add(-divergence * ((steps - 1) / drawn))

    def close(replicate: Array, sums: Float[Array, "replicates batch"]) -> Float[Array, "replicates batch"]:
        """Adds the last step, to the data."""
        noise = _noise(keys, replicates * drawn + replicate, x.shape[1:])
        return sums.at[replicate].add(_log_decoder(predict, path, x, condition, noise, cells))

    sums = jax.lax.fori_loop(0, replicates * drawn, add, jnp.zeros((replicates, x.shape[0])))
    bounds = jax.lax.fori_loop(0, replicates, close, sums) - _prior_divergence(path, x)[None]
    several = replicates > 1
    error = jnp.std(bounds, axis=0, ddof=1) / math.sqrt(replicates) if several else jnp.full(x.shape[:1], jnp.nan)
    value = jnp.mean(bounds, axis=0)
    return Solution.by_calls((value, error), num_calls, value)


def _divergence(
    predict: Predictor,
    path: AffinePath,
    x: State,
    condition: Condition | None,
    times: tuple[PerExample, PerExample],
    noise: State,
    variance: str,
) -> PerExample:
    """KL(q(x_u | x_t, x) | p(x_u | x_t)) at x_t = alpha x + sigma noise, t noisier than u: both means are linear in the noise."""
    t, u = times
    std, std_next = path.noise_std(t), path.noise_std(u)
    a = path.alpha(t) / path.alpha(u)
    added = std**2 - (a * std_next) ** 2  # G^2 of `sampling/stochastic.py`: beta
    x_t = per_example(path.alpha(t), x) * x + per_example(std, x) * noise
    error = _sum(jnp.square(noise - predict("noise", x_t, t, condition)))
    own = (std_next / std) ** 2 * added
    given = own if variance == "posterior" else added
    ratio = own / given
    spread = math.prod(x.shape[1:]) * (ratio - 1.0 - jnp.log(ratio))
    return 0.5 * (spread + (added / (a * std)) ** 2 * error / given)


def _prior_divergence(path: AffinePath, x: State) -> PerExample:
    """KL(q(x_N | x) | N(0, I))."""
    alpha, variance = path.alpha(jnp.float32(0.0)), path.noise_std(jnp.float32(0.0)) ** 2
    size = math.prod(x.shape[1:])
    return 0.5 * (_sum(jnp.square(alpha * x)) + size * (variance - 1.0 - jnp.log(variance)))


def _log_decoder(
    predict: Predictor, path: AffinePath, x: State, condition: Condition | None, noise: State, cells: Cells
) -> PerExample:
    """log p(x | x_1) at x_1 = alpha x + sigma noise: the data expected there, with the variance of the first noising."""
    t = jnp.ones(x.shape[:1])
    std = per_example(path.noise_std(t), x)
    mean = predict("data", per_example(path.alpha(t), x) * x + std * noise, t, condition)
    if cells.half_width == 0:
        return _sum(-0.5 * jnp.square((x - mean) / std) - jnp.log(std) - 0.5 * math.log(2.0 * math.pi))
    end = 1.0 - 0.5 * cells.half_width
    upper = jnp.where(x > end, jnp.inf, (x + cells.half_width - mean) / std)
    lower = jnp.where(x < -end, -jnp.inf, (x - cells.half_width - mean) / std)
    return _sum(_log_mass(lower, upper))


def _log_mass(lower: State, upper: State) -> State:
    """log(Phi(upper) - Phi(lower)), in the tail where it is exact."""
    flip = lower > 0
    low, high = jnp.where(flip, -upper, lower), jnp.where(flip, -lower, upper)
    log_high, log_low = jax.scipy.special.log_ndtr(high), jax.scipy.special.log_ndtr(low)
    return log_high + jnp.log1p(-jnp.exp(jnp.minimum(log_low - log_high, -1e-7)))


def _steps_drawn(keys: Keys, k: Array, part: Array, drawn: int, steps: int) -> PerExample:
    """Which of the steps 1 .. steps - 1 is computed for each example: a random one of this part of the chain."""
    if drawn == steps - 1:
        return jnp.full(keys.shape[:1], 1.0) * (part + 1)
    one = lambda data: jax.random.uniform(_key(data, "chain step", k))  # noqa: E731
    place = (part + jax.vmap(one)(keys)) / drawn
    return jnp.clip(jnp.ceil(place * (steps - 1)), 1, steps - 1)


def _noise(keys: Keys, k: Array, shape: tuple[int, ...]) -> State:
    """N(0, I) for each example, the k-th of its key."""
    return jax.vmap(lambda data: jax.random.normal(_key(data, "chain noise", k), shape))(keys)


def _key(data: Array, name: str, k: Array) -> Array:
    return jax.random.fold_in(key_of(jax.random.wrap_key_data(data), name), k)


def _sum(x: State) -> PerExample:
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))
