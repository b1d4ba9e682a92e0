"""All that training changes, as one record of arrays. Saving it is saving the run."""

import dataclasses
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
        ema_low: what float32 leaves out of the average, like `ema_params`, where the decay wants it (`is_compensated`); else
            None.
        teacher: parameters that the loss compares with, which no step changes and no checkpoint holds; None: it needs none.
    """

    step: Any
    params: Any
    ema_params: Any
    opt_state: Any
    key: Any
    ema_low: Any = None
    teacher: Any = None


def is_compensated(ema_decay: float) -> bool:
    """Whether an average of this decay keeps its low parts: more than 0.9999.

    A float32 average stands still where (1 - decay) times its gap is less than half its last place, so at gaps of less than about
    2^-24 / (1 - decay) of a parameter: 0.06 % at 0.9999, which is as good as there, but 6 % at 0.999999.
    """
    return ema_decay > _COMPENSATED_ABOVE


_COMPENSATED_ABOVE = 0.9999


def initial_state(
    init: Callable[[PRNGKey], PyTree],
    optimizer: optax.GradientTransformation,
    seed: int,
    *,
    compensated: bool = False,
) -> TrainState:
    """The state of step 0.

    Args:
        init: parameters from a key.
        optimizer: whose state to make.
        seed: of the initial parameters and of everything drawn in training.
        compensated: whether the average keeps its low parts.
    """
    params = init(key_of(jax.random.key(seed), "parameters"))
    return state_of(params, jax.tree.map(jnp.copy, params), optimizer, seed, step=0, compensated=compensated)


def state_of(
    params: PyTree,
    ema_params: PyTree,
    optimizer: optax.GradientTransformation,
    seed: int,
    *,
    step: int,
    compensated: bool = False,
) -> TrainState:
    """The state of a run that begins at a step with these parameters and averages, and with a fresh optimizer.

    Args:
        params: the parameters.
        ema_params: their averages.
        optimizer: whose state to make.
        seed: of everything drawn in training.
        step: the number of steps behind the parameters.
        compensated: whether the average keeps its low parts.
    """
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=params,
        ema_params=ema_params,
        opt_state=optimizer.init(params),
        key=key_of(jax.random.key(seed), "training"),
        ema_low=jax.tree.map(jnp.zeros_like, ema_params) if compensated else None,
    )


def split_state(state: TrainState) -> tuple[PyTree, dict[str, Any]]:
    """The averaged parameters, and the rest by name: the two items of a checkpoint."""
    rest = {name: getattr(state, name) for name in ("step", "params", "opt_state", "key")}
    return state.ema_params, rest if state.ema_low is None else {**rest, "ema_low": state.ema_low}


def joined_state(ema_params: PyTree, rest: dict[str, Any], like: TrainState) -> TrainState:
    """The state of a checkpoint's two items.

    Args:
        ema_params: the averages.
        rest: all else, by name; without the low parts where an earlier version saved it, which are then 0.
        like: the state expected, or its shapes with shardings.
    """
    state = TrainState(ema_params=ema_params, **rest)
    if like.ema_low is None or state.ema_low is not None:
        return state
    zeros = lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like.ema_low)  # noqa: E731
    where = jax.tree.map(lambda s: s.sharding, like.ema_low)
    return dataclasses.replace(state, ema_low=jax.jit(zeros, out_shardings=where)())


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
    """The state of `create_state` with shapes and shardings in the arrays' place, computing nothing."""
    shapes = jax.eval_shape(make)
    placed = lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where)  # noqa: E731
    return jax.tree.map(placed, shapes, layout.of_state(shapes))
