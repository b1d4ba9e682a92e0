"""The drift of a model over more points than go into a batch."""

import numpy as np
from jaxtyping import Float, Int

from scoreflow_jax.evaluation.base import Model
from scoreflow_jax.typing import HostState


def drift_in_batches(
    model: Model, x: HostState, t: float, labels: Int[np.ndarray, " batch"] | None
) -> Float[np.ndarray, "_ ..."]:
    """f(x, t, c) in the model's batches."""
    size = model.batch_size
    parts = [
        np.asarray(model.drift(x[i : i + size], t, None if labels is None else labels[i : i + size]))
        for i in range(0, len(x), size)
    ]
    return np.concatenate(parts)
