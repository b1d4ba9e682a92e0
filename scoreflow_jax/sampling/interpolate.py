"""Interpolation between two latents; decoding the result is `generate`."""

import typing

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scoreflow_jax.settings.commands import Rule
from scoreflow_jax.typing import State

Stacked = Float[Array, "..."]
RULES = typing.get_args(Rule)

_STRAIGHT = (
    1e-5  # sine of the angle below which latents point the same way or opposite ways; float32's rounding is 1e-7
)


def interpolate_latents(
    z0: State, z1: State, fractions: Float[Array, " fractions"], rule: str = "square_root"
) -> Float[Array, "fractions batch ..."]:
    """Returns latents between z0 (fraction 0) and z1 (fraction 1), stacked in front.

    Args:
        z0, z1: latents at t = 0.
        fractions: alpha in [0, 1].
        rule: "square_root" is the paper's sqrt(1 - alpha) z0 + sqrt(alpha) z1 (section 4.2), which keeps N(0, I) for
            independent latents; "slerp" turns from one direction to the other at constant speed, for latents of one
            length along the great circle, which between opposite ones is any of many: the one chosen leaves z0 towards the
            axis of its smallest coordinate; "linear" is (1 - alpha) z0 + alpha z1, whose middle has too small a norm.

    Raises:
        ValueError: an unknown rule.
    """
    alpha = fractions.reshape(-1, *(1,) * z0.ndim)
    z0, z1 = z0[None], z1[None]
    if rule == "square_root":
        return jnp.sqrt(1.0 - alpha) * z0 + jnp.sqrt(alpha) * z1
    if rule == "linear":
        return (1.0 - alpha) * z0 + alpha * z1
    if rule == "slerp":
        return _slerp(z0, z1, alpha)
    raise ValueError(f"unknown interpolation rule {rule!r}, expected one of {', '.join(RULES)}")


def _slerp(z0: Stacked, z1: Stacked, alpha: Stacked) -> Stacked:
    """Spherical interpolation (Shoemake 1985); the straight line where both point the same way.

    Between opposite latents no half circle is shorter than another and the formula is 0 / 0: it goes along the one of
    `_perpendicular`, its radius from one length to the other.
    """
    axes = tuple(range(2, z0.ndim))
    length0, length1 = _length(z0, axes), _length(z1, axes)
    n0, n1 = z0 / length0, z1 / length1
    cosine = jnp.sum(n0 * n1, axis=axes, keepdims=True)
    sine = _length(n1 - cosine * n0, axes)  # sqrt(1 - cosine^2) in float32 is off by 3e-4 next to 0
    angle = jnp.arctan2(sine, cosine)
    straight = sine < _STRAIGHT
    safe = jnp.where(straight, 1.0, sine)
    w0 = jnp.where(straight, 1.0 - alpha, jnp.sin((1.0 - alpha) * angle) / safe)
    w1 = jnp.where(straight, alpha, jnp.sin(alpha * angle) / safe)
    direction = jnp.cos(jnp.pi * alpha) * n0 + jnp.sin(jnp.pi * alpha) * _perpendicular(n0, axes)
    half_circle = ((1.0 - alpha) * length0 + alpha * length1) * direction
    return jnp.where(straight & (cosine < 0), half_circle, w0 * z0 + w1 * z1)


def _length(z: Stacked, axes: tuple[int, ...]) -> Stacked:
    return jnp.sqrt(jnp.sum(z * z, axis=axes, keepdims=True))


def _perpendicular(n: Stacked, axes: tuple[int, ...]) -> Stacked:
    """The unit vector at right angles to n that is nearest to the axis of n's smallest coordinate, the first of equals."""
    flat = n.reshape(*n.shape[:2], -1)
    axis = jax.nn.one_hot(jnp.argmin(jnp.abs(flat), axis=-1), flat.shape[-1]).reshape(n.shape)
    across = axis - jnp.sum(axis * n, axis=axes, keepdims=True) * n
    return across / jnp.maximum(_length(across, axes), _STRAIGHT)  # 0 in one dimension, where there is none
