"""All that training changes, as one record of arrays. Saving it is saving the run."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from scoreflow_jax.parallel import Layout
from scoreflow_jax.randomness import key_of
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


def initial_state(init: Callable[[PRNGKey], PyTree], optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state of step 0.

    Args:
        init: parameters from a key.
        optimizer: whose state to make.
        seed: of the initial parameters and of everything drawn in training.
    """
    params = init(key_of(jax.random.key(seed), "parameters"))
    return state_of(params, jax.tree.map(jnp.copy, params), optimizer, seed, step=0)


def state_of(
    params: PyTree, ema_params: PyTree, optimizer: optax.GradientTransformation, seed: int, *, step: int
) -> TrainState:
    """The state of a run that begins at a step with these parameters and averages, and with a fresh optimizer."""
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=params,
        ema_params=ema_params,
        opt_state=optimizer.init(params),
        key=key_of(jax.random.key(seed), "training"),
    )


def create_state(make: Callable[[], TrainState], layout: Layout) -> TrainState:
    """Makes the state on the devices, each array where the layout's rule has it, by one compiled function.

    So each array gets a buffer of its own: parameters and average sharing them would be freed twice when the step donates them.
    """
    # Hundreds of small random arrays, used once: on CPU their code is not worth optimizing (8.6 s of compilation, 2.9 s so).
    on_cpu = layout.first_device.platform == "cpu"
    options = {"xla_backend_optimization_level": 0} if on_cpu else None
    where = layout.of_state(jax.eval_shape(make))
    return jax.jit(make, out_shardings=where, compiler_options=options)()


def state_shapes(make: Callable[[], TrainState], layout: Layout) -> TrainState:
    """The same with shapes and shardings in the arrays' place, computing nothing."""
    shapes = jax.eval_shape(make)
    placed = lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where)  # noqa: E731
    return jax.tree.map(placed, shapes, layout.of_state(shapes))
