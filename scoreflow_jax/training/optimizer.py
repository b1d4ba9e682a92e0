"""Adam as score_sde and rectified flow run it."""

from typing import Any

import jax
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
    rate = optax.linear_schedule(0.0, learning_rate, warmup_steps) if warmup_steps else learning_rate
    return _cooled(optax.chain(clip, optax.adam(rate, b1=b1, b2=b2, eps=epsilon)), *cooldown)


def _cooled(optimizer: optax.GradientTransformation, end: int, steps: int) -> optax.GradientTransformation:
    """The optimizer with updates that fall to 0 at the end.

    Its state is the same, so any run can take up a cool-down; without one nothing knows the end, so a run can be made longer.
    """
    if not steps:
        return optimizer
    down = optax.linear_schedule(1.0, 0.0, steps, transition_begin=end - steps)

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
        left = down(state[1][0].count)  # Adam's, after the clipping: of updates already made
        updates, state = optimizer.update(updates, state, params)
        return jax.tree.map(lambda u: left * u, updates), state

    return optax.GradientTransformation(optimizer.init, update)


def scale_update(optimizer: optax.GradientTransformation, name: str, rate: float) -> optax.GradientTransformation:
    """The optimizer with the updates of params[name] multiplied by `rate`: their own learning rate, whatever Adam made of it."""

    def scaled(updates: PyTree, params: PyTree | None) -> PyTree:
        del params
        return {**updates, name: rate * updates[name]}

    return optax.chain(optimizer, optax.stateless(scaled))
