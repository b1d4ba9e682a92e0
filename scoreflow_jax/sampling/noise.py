"""Noise with an address: sample i is always the same, whatever the batch, device or process that draws it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from scoreflow_jax.typing import PRNGKey, State


def noise_for(key: PRNGKey, indices: Int[Array, " batch"], shape: tuple[int, ...]) -> State:
    """Draws N(0, I) of the given shape for each sample index, from fold_in(key, index).

    Args:
        key: of all samples.
        indices: the numbers of the samples.
        shape: of one sample.
    """
    draw = lambda i: jax.random.normal(jax.random.fold_in(key, i), shape, jnp.float32)  # noqa: E731
    return jax.vmap(draw)(indices)
