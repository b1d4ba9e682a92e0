"""Training: the state, one pure step, and the loop around it."""

from scoreflow_jax.training.loop import Schedule, run
from scoreflow_jax.training.optimizer import make_optimizer
from scoreflow_jax.training.state import TrainState, create_state, initial_state, state_of, state_shapes
from scoreflow_jax.training.step import compile_step, ema_update, make_train_step

__all__ = [
    "Schedule",
    "TrainState",
    "compile_step",
    "create_state",
    "ema_update",
    "initial_state",
    "make_optimizer",
    "make_train_step",
    "run",
    "state_of",
    "state_shapes",
]
