"""The network for points: against NumPy from its parameters' names, eq. 21, dropped labels, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax import models
from scoreflow_jax.models import MLP, NCSNpp

TINY = {"width": 8, "num_blocks": 2}
X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
T = jnp.asarray([0.0, 0.1, 0.35, 0.8, 1.0])
LABEL = jnp.asarray([0, 2, 1, 2, 0])


def randomized(network, scale=0.4):
    """Parameters away from the zeros of initialization."""
    rng = np.random.default_rng(1)
    shapes = models.parameter_shapes(network, X.shape[1:])
    return jax.tree.map(lambda s: jnp.asarray(scale * rng.normal(size=s.shape), jnp.float32), shapes)


def reference(params, x, t, condition, time_scale=10.0):
    """The network once more in float64; condition: embedded already, or None."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    dense = lambda h, layer: h @ layer["kernel"] + layer["bias"]
    swish = lambda h: h / (1 + np.exp(-h))
    half = p["time_0"]["kernel"].shape[0] // 2
    angles = np.outer(time_scale * np.asarray(t, np.float64), 10_000.0 ** (-np.arange(half) / (half - 1)))
    time = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    time = swish(dense(swish(dense(time, p["time_0"])), p["time_1"]))
    h = dense(np.asarray(x, np.float64), p["in"])
    for i in range(sum(name.startswith("block") for name in p)):
        block = p[f"block_{i}"]
        a = dense(swish(h), block["dense_0"])
        if condition is not None:
            a = dense(condition, block["class_gain"]) * a  # eq. 21: emb_c * a + emb_t
        a = a + dense(time, block["time"])
        h = (h + dense(swish(a), block["dense_1"])) / np.sqrt(2)
    return dense(swish(h), p["out"])


def test_agrees_with_numpy_with_labels_vectors_and_none():
    labels, vectors, free = MLP(num_classes=3, **TINY), MLP(condition_dim=2, **TINY), MLP(**TINY)
    params = randomized(labels)
    table = np.asarray(params["class_embedding"]["embedding"], np.float64)
    got = models.make_drift(labels, params)(X, T, LABEL)
    np.testing.assert_allclose(got, reference(params, X, T, table[np.asarray(LABEL)]), rtol=2e-4, atol=2e-4)
    params, c = randomized(vectors), jnp.asarray(np.random.default_rng(2).normal(size=(5, 2)), jnp.float32)
    layer = jax.tree.map(lambda a: np.asarray(a, np.float64), params["condition_embedding"])
    embedded = np.asarray(c, np.float64) @ layer["kernel"] + layer["bias"]
    got = models.make_drift(vectors, params)(X, T, c)
    np.testing.assert_allclose(got, reference(params, X, T, embedded), rtol=2e-4, atol=2e-4)
    params = randomized(free)
    got = models.make_drift(free, params)(X, T, None)
    np.testing.assert_allclose(got, reference(params, X, T, None), rtol=2e-4, atol=2e-4)


def test_starts_at_no_drift_and_computes_in_either_precision():
    network = MLP(num_classes=3, **TINY)
    params = models.init_parameters(network, jax.random.key(0), (3,))
    assert float(jnp.abs(models.make_drift(network, params)(X, T, LABEL)).max()) < 1e-3
    low = models.make_drift(network.clone(dtype="bfloat16"), randomized(network))(X, T, LABEL)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, models.make_drift(network, randomized(network))(X, T, LABEL), atol=0.5)


def test_label_dropout_drops_each_label_by_itself():
    network = MLP(num_classes=3, label_dropout=0.3, **TINY)
    params = randomized(network)
    conditional, free = (np.asarray(models.make_drift(network, params)(X, T, c)) for c in (LABEL, None))
    assert np.abs(conditional - free).max(axis=1).min() > 1e-3
    train = jax.jit(jax.vmap(lambda key: models.make_drift(network, params, dropout_key=key)(X, T, LABEL)))
    out = np.asarray(train(jax.random.split(jax.random.key(0), 200)))
    dropped = np.abs(out - free).max(axis=2) < 1e-5
    assert np.all(dropped | (np.abs(out - conditional).max(axis=2) < 1e-5))
    assert abs(dropped.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / dropped.size)
    assert np.any((dropped.sum(axis=1) > 0) & (dropped.sum(axis=1) < 5))  # not all or none of a batch


@pytest.mark.parametrize(
    ("network", "shape", "match"),
    [
        (MLP(), (8, 8, 1), "mlp takes points .dimension,., got images of shape .8, 8, 1.: use ncsnpp"),
        (NCSNpp(), (2,), "ncsnpp takes images .height, width, channels., got points of shape .2,.: use mlp"),
        (MLP(width=7), (2,), "width is 7, expected an even number"),
        (MLP(num_blocks=0), (2,), "num_blocks is 0"),
        (MLP(label_dropout=0.1), (2,), "label_dropout needs labels"),
        (MLP(num_classes=2, label_dropout=1.0), (2,), "label_dropout is 1.0, expected at least 0 and less than 1"),
    ],
)
def test_refuses_what_it_cannot_take(network, shape, match):
    with pytest.raises(ValueError, match=match):
        network.check_shape(shape)
    with pytest.raises(ValueError, match=r"expected integer labels"):
        models.make_drift(MLP(num_classes=3, **TINY), randomized(MLP(num_classes=3, **TINY)))(X, T, None)
