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


@pytest.mark.parametrize("z0", [np.asarray(Z0), np.ones((1, 2), np.float32), np.array([[3.0, 0.0, 0.0]], np.float32)])
def test_slerp_of_opposite_latents_is_a_half_circle(z0):
    """Steps of a quarter of pi, at right angles halfway, and never through 0: every length is between those of the ends."""
    steps = np.asarray(interpolate_latents(jnp.asarray(z0), jnp.asarray(-1.5 * z0), ALPHA, "slerp"), np.float64)
    steps = steps.reshape(5, len(z0), -1)
    lengths = np.linalg.norm(steps, axis=-1)
    np.testing.assert_allclose(lengths, lengths[0] * np.linspace(1, 1.5, 5)[:, None], rtol=1e-5)
    units = steps / lengths[..., None]
    np.testing.assert_allclose(np.sum(units[1:] * units[:-1], -1), np.cos(np.pi / 4), atol=1e-5)
    np.testing.assert_allclose(
        np.sum(units * units[0], -1), np.cos(np.linspace(0, np.pi, 5))[:, None] + 0 * lengths, atol=1e-5
    )
    np.testing.assert_allclose(steps[-1], -1.5 * steps[0], atol=1e-4)


@pytest.mark.parametrize("angle", [1e-3, 1.0, np.pi - 1e-3])
def test_slerp_is_shoemakes_up_to_nearly_opposite_latents(angle):
    z1 = np.array([[np.cos(angle), np.sin(angle), 0.0]], np.float32)
    steps = np.asarray(interpolate_latents(jnp.array([[1.0, 0.0, 0.0]]), jnp.asarray(z1), ALPHA, "slerp"))[:, 0]
    turned = np.linspace(0, 1, 5) * angle
    np.testing.assert_allclose(steps, np.stack([np.cos(turned), np.sin(turned), 0 * turned], 1), atol=2e-4)


def test_refuses_an_unknown_rule():
    with pytest.raises(ValueError, match="square_root, slerp, linear"):
        interpolate_latents(Z0, Z1, ALPHA, "cubic")
