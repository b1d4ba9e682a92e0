"""What conditions the network besides labels: vectors, dropped labels; and what only changes its training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax import models
from scoreflow_jax.models import NCSNpp
from scoreflow_jax.models.blocks import Dropout
from scoreflow_jax.models.embeddings import fourier_embedding
from tests.models.test_ncsnpp import LABEL, TINY, T, X, drift_of, initial, randomized


def parameters(network):
    """Random ones, away from the zeros of initialization."""
    rng = np.random.default_rng(0)
    shapes = models.parameter_shapes(network, X.shape[1:])
    return jax.tree.map(lambda s: jnp.asarray(0.2 * rng.normal(size=s.shape), jnp.float32), shapes)


def test_vectors_condition_as_labels_do():
    """A vector network fed one-hot vectors is the label network whose table holds its dense layer's rows."""
    vectors = NCSNpp(condition_dim=3, **TINY)
    params = parameters(vectors)
    layer = params["condition_embedding"]
    table = {"embedding": layer["kernel"] + layer["bias"][None]}
    labels = {**{k: v for k, v in params.items() if k != "condition_embedding"}, "class_embedding": table}
    got = drift_of(vectors, params)(X, T, jax.nn.one_hot(LABEL, 3))
    np.testing.assert_allclose(got, drift_of(NCSNpp(num_classes=3, **TINY), labels)(X, T, LABEL), atol=1e-5)
    assert jax.tree.structure(initial(3)) == jax.tree.structure(labels)
    with pytest.raises(ValueError, match=r"expected float vectors \(batch, 3\)"):
        models.make_drift(vectors, params)(X, T, LABEL)
    with pytest.raises(ValueError, match=r"expected float vectors \(batch, 3\)"):
        models.make_drift(vectors, params)(X, T, jnp.zeros((4, 5)))


def test_label_dropout_drops_each_label_by_itself():
    """In training every example is either the conditional or the unconditional network's, at the given rate."""
    network = NCSNpp(num_classes=3, label_dropout=0.3, **TINY)
    params = randomized(network)
    conditional, free = drift_of(network, params)(X, T, LABEL), drift_of(network, params)(X, T, None)
    assert float(jnp.abs(conditional - free).max(axis=(1, 2, 3)).min()) > 1e-3
    train = jax.jit(lambda key: models.make_drift(network, params, dropout_key=key)(X, T, LABEL))
    dropped = []
    for i in range(100):
        out = train(jax.random.key(i))
        is_free = np.abs(out - free).max(axis=(1, 2, 3)) < 1e-5
        assert np.all(is_free | (np.abs(out - conditional).max(axis=(1, 2, 3)) < 1e-5))
        dropped.append(is_free)
    dropped = np.stack(dropped)
    assert abs(dropped.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / dropped.size)
    assert sum(0 < row.sum() < 4 for row in dropped) > 0  # not all or none of a batch
    with pytest.raises(ValueError, match="got no condition"):
        models.make_drift(NCSNpp(num_classes=3, **TINY), params)(X, T, None)


@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_dropout_has_its_rate_and_keeps_the_mean(rate):
    x = jnp.ones((4, 64, 64, 7))  # an odd number of channels: bits come in pairs
    out = Dropout(rate).apply({}, x, True, rngs={"dropout": jax.random.key(0)})
    values, counts = np.unique(out, return_counts=True)
    assert values.tolist() == pytest.approx([0.0, 1 / (1 - rate)], rel=1e-4)
    assert abs(counts[0] / x.size - rate) < 4 * np.sqrt(rate * (1 - rate) / x.size) + 2**-16
    channel_means = np.asarray(out).mean(axis=(0, 1, 2))
    assert np.ptp(channel_means) < 8 * np.sqrt(rate / (1 - rate) / (x.size / 7))  # halves of a pair are alike
    np.testing.assert_array_equal(Dropout(rate).apply({}, x, False), x)


def test_label_dropout_needs_labels():
    with pytest.raises(ValueError, match="label_dropout needs labels"):
        NCSNpp(label_dropout=0.1, **TINY).check_shape((8, 8, 3))


def test_rematerialization_changes_only_memory():
    """Same parameters, names, loss and gradients, by a program that asks for less memory."""
    plain = NCSNpp(base_channels=8, channel_multipliers=(1,), num_blocks=1, attention_resolutions=(), dropout=0.2)
    saving = plain.clone(remat_resolutions=(8,))
    params = parameters(plain)
    assert jax.tree.structure(models.parameter_shapes(saving, X.shape[1:])) == jax.tree.structure(params)

    def gradient(network):
        loss = lambda p: jnp.mean(models.make_drift(network, p, dropout_key=jax.random.key(1))(X, T, None) ** 2)
        # As training/step.py compiles: without it XLA's CPU compiler undoes rematerialization.
        options = {"xla_disable_hlo_passes": "cse_barrier_expander"} if jax.default_backend() == "cpu" else None
        return jax.jit(jax.value_and_grad(loss)).lower(params).compile(compiler_options=options)

    one, other = gradient(plain), gradient(saving)
    for a, b in zip(jax.tree.leaves(one(params)), jax.tree.leaves(other(params)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4)
    temporaries = [program.memory_analysis().temp_size_in_bytes for program in (one, other)]
    assert temporaries[1] < 0.8 * temporaries[0]


def test_fourier_embedding_in_closed_form():
    values, frequencies = jnp.array([0.5, -1.25]), jnp.array([1.0, 2.5, -3.0])
    got = fourier_embedding(values, frequencies)
    angles = 2 * np.pi * np.outer(np.asarray(values, np.float64), np.asarray(frequencies, np.float64))
    np.testing.assert_allclose(got, np.concatenate([np.sin(angles), np.cos(angles)], -1), atol=1e-5)


def test_fourier_frequencies_are_not_trained():
    network = NCSNpp(embedding="fourier", **TINY)
    params = randomized(NCSNpp(**TINY)) | {"fourier_frequencies": jnp.linspace(-16.0, 16.0, 8)}
    params["time_0"] = parameters(network)["time_0"]
    loss = lambda p: jnp.mean(models.make_drift(network, p)(X, T + 0.1, None) ** 2)
    gradient = jax.jit(jax.grad(loss))(params)
    assert not np.any(gradient.pop("fourier_frequencies"))
    assert np.any(gradient["time_0"]["kernel"])


def test_centered_and_sigma_are_what_they_say():
    network = NCSNpp(**TINY)
    params = randomized(network)
    out = drift_of(network, params)(X, T, None)
    half = drift_of(network.clone(centered=False), params)((X + 1) / 2, T, None)
    np.testing.assert_allclose(half, out, atol=1e-4)
    divided = drift_of(network.clone(scale_by_sigma=True), params)(X, T, None)
    levels = np.exp(np.linspace(np.log(50), np.log(0.01), 1000))[(999 * np.asarray(T)).astype(int)]
    np.testing.assert_allclose(divided, np.asarray(out) / levels[:, None, None, None], rtol=1e-4, atol=1e-4)
