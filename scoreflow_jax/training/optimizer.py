"""Adam as score_sde and rectified flow run it."""

from collections.abc import Callable
from typing import Any

import optax

from scoreflow_jax.typing import PyTree


def make_optimizer(
    cooldown: tuple[int, int] = (0, 0),
    /,
    *,
    learning_rate: float,
    b1: float,
    b2: float,
    epsilon: float,
    warmup_steps: int,
    clip_norm: float,
) -> optax.GradientTransformation:
    """Adam after clipping, with a linear warm-up from 0.

    Args:
        cooldown: the step at which training ends, and over how many steps before it the rate falls to 0; 0 for none.
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
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    rate = _rate(learning_rate, warmup_steps, *cooldown)
    return optax.chain(clip, optax.adam(rate, b1=b1, b2=b2, eps=epsilon))


def _rate(rate: float, warmup: int, end: int, cooldown: int) -> float | Callable[[Any], Any]:
    """By the number of updates already made. Without cool-down it does not know the end, so that a run can be made longer."""
    if not (warmup or cooldown):
        return rate
    up = optax.linear_schedule(0.0, rate, warmup) if warmup else optax.constant_schedule(rate)
    if not cooldown:
        return up
    down = optax.linear_schedule(1.0, 0.0, cooldown, transition_begin=end - cooldown)
    return lambda count: up(count) * down(count)


def scale_update(optimizer: optax.GradientTransformation, name: str, rate: float) -> optax.GradientTransformation:
    """The optimizer with the updates of params[name] multiplied by `rate`: their own learning rate, whatever Adam made of it."""

    def scaled(updates: PyTree, params: PyTree | None) -> PyTree:
        del params
        return {**updates, name: rate * updates[name]}

    return optax.chain(optimizer, optax.stateless(scaled))
