"""Networks that are told a second time: nothing at s = t, the sums by hand beyond, and the program of a drift without it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax import models
from scoreflow_jax.models import MLP, NCSNpp

IMAGE = {
    "base_channels": 8,
    "channel_multipliers": (1, 1),
    "num_blocks": 1,
    "attention_resolutions": (),
    "num_classes": 3,
}
POINTS = {"width": 8, "num_blocks": 2, "num_classes": 3}
KINDS = [(NCSNpp, IMAGE, (8, 8, 1)), (MLP, POINTS, (3,))]
T = jnp.asarray([0.0, 0.1, 0.35, 1.0])
LABEL = jnp.asarray([0, 2, 1, 2])
JUMP = jnp.asarray([1.0, -0.1, 0.3, -1.0])


def made(kind, fields, shape, **more):
    """A network, examples, and parameters away from their zeros."""
    network = kind(**fields, **more)
    x = jax.random.normal(jax.random.key(1), (4, *shape))
    rng = np.random.default_rng(1)
    shapes = models.parameter_shapes(network, shape)
    return network, x, jax.tree.map(lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape), jnp.float32), shapes)


def without_jumps(params):
    """The parameters of the drift alone."""
    return {name: value for name, value in params.items() if not name.startswith(("jump", "guidance"))}


@pytest.mark.parametrize(("kind", "fields", "shape"), KINDS)
def test_at_equal_times_it_is_the_drift_whatever_was_learned(kind, fields, shape):
    network, x, params = made(kind, fields, shape, two_times=True)
    f = models.make_drift(network, params)
    drift = f(x, T, LABEL)
    np.testing.assert_array_equal(f(x, T, LABEL, jnp.zeros(4)), drift)
    guiding, _, more = made(kind, fields, shape, two_times=True, most_guidance=3.0)
    g = models.make_drift(guiding, more)
    np.testing.assert_array_equal(g(x, T, LABEL, JUMP, jnp.ones(4)), g(x, T, LABEL, JUMP))
    assert (
        np.abs(np.asarray(g(x, T, LABEL, JUMP, 2 * jnp.ones(4)) - g(x, T, LABEL, JUMP))).reshape(4, -1).max(1).min()
        > 1e-3
    )
    moved = np.abs(np.asarray(f(x, T, LABEL, JUMP) - drift)).reshape(4, -1).max(axis=1)
    assert moved.min() > 1e-3, "every jump, forwards and backwards, is told apart from none"
    assert np.abs(np.asarray(f(x, T, LABEL, JUMP) - f(x, T, LABEL, -JUMP))).max() > 1e-3


@pytest.mark.parametrize(("kind", "fields", "shape"), KINDS)
def test_without_a_second_time_the_program_is_that_of_a_drift(kind, fields, shape):
    """Text for text: of the same network that is told one time, with the same parameters but the jumps'."""
    network, x, params = made(kind, fields, shape, two_times=True, most_guidance=2.0)
    plain, _, same = made(kind, fields, shape)
    assert jax.tree.map(jnp.shape, without_jumps(params)) == jax.tree.map(jnp.shape, same)
    text = lambda network: (
        jax.jit(lambda p: models.make_drift(network, p)(x, T, LABEL)).lower(without_jumps(params)).as_text()
    )
    assert text(network) == text(plain)


@pytest.mark.parametrize(("kind", "fields", "shape"), KINDS)
def test_a_trained_drift_is_where_it_begins(kind, fields, shape):
    """Fresh jumps change no output: a drift jumps by its slope."""
    network, x, params = made(kind, fields, shape, two_times=True)
    fresh = models.init_parameters(network, jax.random.key(0), shape)
    f = models.make_drift(network, {**fresh, **without_jumps(params)})
    np.testing.assert_array_equal(f(x, T, LABEL, JUMP), f(x, T, LABEL))


def test_the_sum_by_hand():
    """E(s - t) - E(0) joins the embedding of t, with sines of 8 (s - t) down to 1/32 of that."""
    network, x, params = made(MLP, POINTS, (3,), two_times=True)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    swish = lambda h: h / (1 + np.exp(-h))

    def embedded(jump):
        angles = np.outer(8 * jump, 32.0 ** (-np.arange(2)))
        h = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1) @ p["jump_0"]["kernel"] + p["jump_0"]["bias"]
        return swish(h) @ p["jump_1"]["kernel"]

    added = embedded(np.asarray(JUMP, np.float64)) - embedded(np.zeros(4))
    # The same by a drift whose embedding of t has that added to its last bias, one example at a time.
    for i in range(4):
        moved = {**params, "time_1": {**params["time_1"], "bias": params["time_1"]["bias"] + jnp.float32(added[i])}}
        expected = models.make_drift(network, moved)(x[i : i + 1], T[i : i + 1], LABEL[i : i + 1])
        got = models.make_drift(network, params)(x[i : i + 1], T[i : i + 1], LABEL[i : i + 1], JUMP[i : i + 1])
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("two_times", "most"), [(False, 2.0), (True, 0.5)])
def test_guidance_is_of_jumps_and_beyond_1(two_times, most):
    with pytest.raises(
        ValueError, match="most_guidance is .*, of jumps of a network with two_times: expected more than 1, or 0"
    ):
        MLP(**POINTS, two_times=two_times, most_guidance=most).check()


def test_dropout_is_one_for_all_calls_of_a_step():
    """u(x, t, t, c) and f(x, t, c) are equal while activations are dropped, so a loss of both asks nothing impossible."""
    network, x, params = made(NCSNpp, IMAGE, (8, 8, 1), two_times=True, dropout=0.5, label_dropout=0.3)
    f = models.make_drift(network, params, dropout_key=jax.random.key(3))
    np.testing.assert_array_equal(f(x, T, LABEL, jnp.zeros(4)), f(x, T, LABEL))
    other = models.make_drift(network, params, dropout_key=jax.random.key(4))
    assert np.abs(np.asarray(other(x, T, LABEL) - f(x, T, LABEL))).max() > 1e-3
