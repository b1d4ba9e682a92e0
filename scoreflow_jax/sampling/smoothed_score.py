"""A trained model as the score of smoothed data.

On a path x_t = alpha(t) x1 + sigma(t) x0 from Gaussian noise, y = x_t / alpha is data plus N(0, (sigma/alpha)^2 I). Its density
is that of x_t but for the scale, so that its score is

    grad log p(y; s) = alpha(t) score_t(alpha(t) y)    with    sigma(t) / alpha(t) = s.

So every model on such a path, linear, VP or VE, knows the score of the data at every bandwidth between those of its ends.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from scoreflow_jax.paths import AffinePath, Prediction
from scoreflow_jax.typing import State, Time, Times


def bandwidth_limits(path: AffinePath) -> tuple[float, float]:
    """The least and the greatest bandwidth that the path has, sigma / alpha at its ends; the latter may be infinite."""
    with jax.ensure_compile_time_eval():
        ends = [jnp.float32(t) for t in (path.t_max, path.t_min)]
        low, high = (float(path.noise_std(t)) / max(float(path.alpha(t)), 1e-30) for t in ends)
    return low, high


def smoothed_score(
    predict: Callable[[Prediction, State, Times], State], path: AffinePath
) -> Callable[[State, Time], State]:
    """Turns what a model predicts on a path into (y, bandwidth) -> score of the smoothed data.

    Args:
        predict: (kind, x, t) -> the prediction, `NetworkDrift.predict` with its condition inside.
        path: of the model.

    Raises:
        ValueError: a path whose source is not Gaussian, which has no such score.
    """
    if not path.gaussian_source:
        raise ValueError("the path's source is not Gaussian noise: its states are no smoothed data, which have a score")

    def score(y: State, bandwidth: Time) -> State:
        """alpha score_t(alpha y)."""
        t = path.time_at(-2.0 * jnp.log(bandwidth))
        alpha = path.alpha(t)
        return alpha * predict("score", alpha * y, jnp.broadcast_to(t, y.shape[:1]))

    return score
