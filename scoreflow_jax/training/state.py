"""All that training changes, as one record of arrays. Saving it is saving the run."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from scoreflow_jax.parallel import Layout
from scoreflow_jax.typing import PRNGKey, PyTree


@flax.struct.dataclass
class TrainState:
    """The state after `step` steps.

    Attributes:
        step: int32 scalar.
        params: float32 parameters being trained.
        ema_params: their exponential moving average, which every other mode uses.
        opt_state: of the optimizer.
        key: the run's base key; it never changes, step n draws from fold_in(key, n).
    """

    step: Any
    params: Any
    ema_params: Any
    opt_state: Any
    key: Any


def create_state(
    init: Callable[[PRNGKey], PyTree], optimizer: optax.GradientTransformation, seed: int, layout: Layout
) -> TrainState:
    """Returns the state of step 0, made on the devices by one compiled function.

    Args:
        init: parameters from a key.
        optimizer: whose state to make.
        seed: of the initial parameters and of everything drawn in training.
        layout: where the state shall live.
    """

    def create(key: PRNGKey) -> TrainState:
        """The state; under jit the average gets buffers of its own, without which donation would free it twice."""
        init_key, run_key = jax.random.split(key)
        params = init(init_key)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema_params=jax.tree.map(jnp.copy, params),
            opt_state=optimizer.init(params),
            key=run_key,
        )

    return jax.jit(create, out_shardings=layout.replicated)(jax.random.key(seed))
