"""Interpolation between two latents; decoding the result is `generate`."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from scoreflow_jax.typing import State

Stacked = Float[Array, "..."]
RULES = ("square_root", "slerp", "linear")


def interpolate_latents(
    z0: State, z1: State, fractions: Float[Array, " fractions"], rule: str = "square_root"
) -> Float[Array, "fractions batch ..."]:
    """Returns latents between z0 (fraction 0) and z1 (fraction 1), stacked in front.

    Args:
        z0, z1: latents at t = 0.
        fractions: alpha in [0, 1].
        rule: "square_root" is the paper's sqrt(1 - alpha) z0 + sqrt(alpha) z1 (section 4.2), which keeps N(0, I) for
            independent latents; "slerp" turns from one direction to the other at constant speed, for latents of one
            length along the great circle; "linear" is (1 - alpha) z0 + alpha z1, whose middle has too small a norm.

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
    """Spherical interpolation (Shoemake 1985); falls back to the straight line where both point the same way."""
    axes = tuple(range(2, z0.ndim))
    length = lambda z: jnp.sqrt(jnp.sum(z * z, axis=axes, keepdims=True))  # noqa: E731
    cosine = jnp.sum(z0 * z1, axis=axes, keepdims=True) / (length(z0) * length(z1))
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    sine = jnp.sin(angle)
    parallel = sine < 1e-6
    safe = jnp.where(parallel, 1.0, sine)
    w0 = jnp.where(parallel, 1.0 - alpha, jnp.sin((1.0 - alpha) * angle) / safe)
    w1 = jnp.where(parallel, alpha, jnp.sin(alpha * angle) / safe)
    return w0 * z0 + w1 * z1
