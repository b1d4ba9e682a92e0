"""Adam as score_sde and rectified flow run it."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from scoreflow_jax.settings.train import OptimizerSettings, Schedule


def make_optimizer(settings: OptimizerSettings) -> optax.GradientTransformation:
    """Adam after clipping, with a linear warm-up from 0.

    Args:
        settings: `config.optimizer`.
    """
    s = settings
    clip = optax.clip_by_global_norm(s.clip_norm) if s.clip_norm else optax.identity()
    rate = optax.linear_schedule(0.0, s.learning_rate, s.warmup_steps) if s.warmup_steps else s.learning_rate
    return optax.chain(clip, optax.adam(rate, b1=s.b1, b2=s.b2, eps=s.epsilon))


def cooldown_share(step: Int[Array, ""], schedule: Schedule) -> Float[Array, ""]:
    """What an update is multiplied by for the rate to fall to 0 at the end of training, of the update after `step` others.

    It is of the run's steps, not of the optimizer's, which begin anew where a run began from given weights; and it is no part of
    the optimizer's state, so any run can take up a cool-down, and one without can be made longer.
    """
    steps = schedule.cooldown_steps
    return jnp.asarray(optax.linear_schedule(1.0, 0.0, steps, transition_begin=schedule.num_steps - steps)(step))
