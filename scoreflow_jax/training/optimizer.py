"""Adam as score_sde and rectified flow run it."""

import optax

from scoreflow_jax.typing import PyTree


def make_optimizer(
    *, learning_rate: float, b1: float, b2: float, epsilon: float, warmup_steps: int, clip_norm: float
) -> optax.GradientTransformation:
    """Adam after clipping, with a linear warm-up from 0.

    Args:
        learning_rate: after the warm-up.
        b1, b2, epsilon: Adam's.
        warmup_steps: 0 for none.
        clip_norm: bound of the gradient's global norm; 0 for none.

    Raises:
        ValueError: a rate that is not positive, a negative warm-up or bound.
    """
    if not learning_rate > 0:
        raise ValueError(f"learning_rate is {learning_rate}, expected a positive number, such as 2e-4")
    if warmup_steps < 0 or clip_norm < 0:
        raise ValueError(f"warmup_steps and clip_norm are {warmup_steps} and {clip_norm}, expected at least 0")
    rate = optax.linear_schedule(0.0, learning_rate, warmup_steps) if warmup_steps else learning_rate
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    return optax.chain(clip, optax.adam(rate, b1=b1, b2=b2, eps=epsilon))


def scale_update(optimizer: optax.GradientTransformation, name: str, rate: float) -> optax.GradientTransformation:
    """The optimizer with the updates of params[name] multiplied by `rate`: their own learning rate, whatever Adam made of it."""

    def scaled(updates: PyTree, params: PyTree | None) -> PyTree:
        del params
        return {**updates, name: rate * updates[name]}

    return optax.chain(optimizer, optax.stateless(scaled))
