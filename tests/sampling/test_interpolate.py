"""Interpolation of latents: ends, norms and the paper's rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax.sampling import RULES, interpolate_latents

Z0, Z1 = (jax.random.normal(k, (5, 8, 8, 1)) for k in jax.random.split(jax.random.key(0)))
ALPHA = jnp.linspace(0.0, 1.0, 5)


@pytest.mark.parametrize("rule", RULES)
def test_ends_are_the_latents(rule):
    between = interpolate_latents(Z0, Z1, ALPHA, rule)
    np.testing.assert_allclose(between[0], Z0, atol=1e-6)
    np.testing.assert_allclose(between[-1], Z1, atol=1e-6)


def test_square_root_is_the_papers_and_keeps_unit_variance():
    between = interpolate_latents(Z0, Z1, ALPHA, "square_root")
    np.testing.assert_allclose(between[1], np.sqrt(0.75) * Z0 + np.sqrt(0.25) * Z1, atol=1e-6)
    many = interpolate_latents(*(jax.random.normal(k, (500, 64)) for k in jax.random.split(jax.random.key(1))), ALPHA)
    np.testing.assert_allclose(np.asarray(many).var(axis=(1, 2)), 1.0, atol=4 * np.sqrt(2 / 32_000))


def test_linear_loses_half_the_variance_in_the_middle():
    pair = [jax.random.normal(k, (500, 64)) for k in jax.random.split(jax.random.key(1))]
    assert np.asarray(interpolate_latents(*pair, jnp.array([0.5]), "linear")).var() == pytest.approx(0.5, abs=0.02)


def test_slerp_turns_at_constant_speed_on_the_circle():
    between = np.asarray(interpolate_latents(jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 2.0]]), ALPHA, "slerp"))[:, 0]
    angles = np.linspace(0, np.pi / 2, 5)
    np.testing.assert_allclose(between, 2 * np.stack([np.cos(angles), np.sin(angles)], 1), atol=1e-6)


def test_slerp_of_parallel_latents_is_the_straight_line():
    between = interpolate_latents(jnp.array([[1.0, 1.0]]), jnp.array([[1.0, 1.0]]), ALPHA, "slerp")
    np.testing.assert_allclose(between, 1.0, atol=1e-6)


def test_refuses_an_unknown_rule():
    with pytest.raises(ValueError, match="square_root, slerp, linear"):
        interpolate_latents(Z0, Z1, ALPHA, "cubic")
