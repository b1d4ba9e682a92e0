"""The drift of a model over more points than go into a batch."""

import numpy as np
from jaxtyping import Float, Int

from scoreflow_jax.evaluation.base import Model
from scoreflow_jax.typing import HostState


def drift_in_batches(
    model: Model, x: HostState, t: float, labels: Int[np.ndarray, " batch"] | None
) -> Float[np.ndarray, "_ ..."]:
    """Computes f(x, t, c) in batches of the model's size.

    Args:
        model: whose drift.
        x: any number of points, (points, ...).
        t: one time for all, in [0, 1].
        labels: the class of each point; None for an unconditional model.
    """
    size = model.batch_size
    parts = [
        np.asarray(model.drift(x[i : i + size], t, None if labels is None else labels[i : i + size]))
        for i in range(0, len(x), size)
    ]
    return np.concatenate(parts)
