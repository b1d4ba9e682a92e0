"""Classifier-free guidance (Ho and Salimans 2021, arXiv:2207.12598) of a drift that also knows no condition.

The guided drift is f(x, t, none) + w [f(x, t, c) - f(x, t, none)]: w = 1 is the conditional drift, w = 0 the
unconditional one, and w > 1 goes beyond. It costs two network calls an evaluation. It is linear in the drift, as the score is:
on the linear path from a Gaussian source score = (t f - x) / (1 - t), so guiding the drift by w is guiding the score by w.
"""

from collections.abc import Callable

import numpy as np
from jax.typing import ArrayLike

from scoreflow_jax.typing import Condition, DriftFn, PerExample, State, Times


def guided(drift: DriftFn) -> Callable[[State, Times, tuple[Condition, PerExample]], State]:
    """The drift that is told the condition and the weight w of each example."""

    def guided_drift(x: State, t: Times, both: tuple[Condition, PerExample]) -> State:
        """f(x, t, none) + w [f(x, t, c) - f(x, t, none)]."""
        condition, weight = both
        free = drift(x, t, None)
        return free + weight.reshape(-1, *[1] * (x.ndim - 1)) * (drift(x, t, condition) - free)

    return guided_drift


def network_calls(weight: float, method: str | None = None) -> int:
    """The network calls of one evaluation of the drift guided by this weight.

    Args:
        weight: at 1 it is the conditional drift itself.
        method: of the solver; None: there is none. A flow map is told the weight, and jumps along the guided ODE in one call.
    """
    return 1 if weight == 1.0 or method == "flow_map" else 2


def is_off(weight: ArrayLike | None) -> bool:
    """Whether a weight, or weights of several examples, guides nothing: None, or one number 1."""
    return weight is None or (np.ndim(weight) == 0 and float(np.asarray(weight)) == 1.0)
