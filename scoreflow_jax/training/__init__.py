"""Training: the state, one pure step, and the loop around it."""

from scoreflow_jax.training.loop import Hooks, Record, Steps, run
from scoreflow_jax.training.optimizer import make_optimizer
from scoreflow_jax.training.profile import PROFILE_AFTER, Profile
from scoreflow_jax.training.state import (
    TrainState,
    create_state,
    initial_state,
    is_compensated,
    joined_state,
    split_state,
    state_of,
    state_shapes,
)
from scoreflow_jax.training.step import (
    Compiled,
    Drawn,
    TrainLoss,
    compensated_ema_update,
    compile_step,
    ema_update,
    jit_step,
    make_train_step,
    per_example,
    several,
    value_and_grad,
)
from scoreflow_jax.training.times import TIMES, TimeDistribution, Uniform

__all__ = [
    "PROFILE_AFTER",
    "TIMES",
    "Compiled",
    "Drawn",
    "Hooks",
    "Profile",
    "Record",
    "Steps",
    "TimeDistribution",
    "TrainLoss",
    "TrainState",
    "Uniform",
    "compensated_ema_update",
    "compile_step",
    "create_state",
    "ema_update",
    "initial_state",
    "is_compensated",
    "jit_step",
    "joined_state",
    "make_optimizer",
    "make_train_step",
    "per_example",
    "run",
    "several",
    "split_state",
    "state_of",
    "state_shapes",
    "value_and_grad",
]
