"""DDPM++: the published parameter counts, layers against plain numpy, and eq. 21."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from scoreflow_jax import models
from scoreflow_jax.models import NCSNpp
from scoreflow_jax.models.blocks import AttentionBlock, Context, GroupNorm, ResidualBlock
from scoreflow_jax.models.embeddings import positional_embedding
from scoreflow_jax.models.ncsnpp import fold, unfold
from tests.changes import of_config

FIR = {"fir_kernel": (1.0, 3.0, 3.0, 1.0)}
VE = {**FIR, "progressive_input": "residual", "embedding": "fourier", "scale_by_sigma": True}
NCSNPP_256 = {
    **FIR,
    "channel_multipliers": (1, 1, 2, 2, 2, 2, 2),
    "num_blocks": 2,
    "progressive_output": "output_skip",
    "progressive_input": "input_skip",
    "embedding": "fourier",
    "scale_by_sigma": True,
}
PUBLISHED = {  # of the PyTorch code of Song et al. 2021: configuration, size of the images, parameters
    "CIFAR-10 DDPM++": ({"num_blocks": 4}, 32, 61_804_419),
    "CIFAR-10 DDPM++ deep": ({"num_blocks": 8}, 32, 106_632_579),
    "CIFAR-10 NCSN++ VE": (VE, 32, 62_758_915),  # with 128 fixed Fourier frequencies
    "CIFAR-10 NCSN++ VP": ({**FIR, "progressive_input": "residual"}, 32, 62_693_251),
    "NCSN++ 256x256": (NCSNPP_256, 256, 65_574_549),
}
TINY = {
    "base_channels": 8,
    "channel_multipliers": (1, 2),
    "num_blocks": 1,
    "attention_resolutions": (4,),
    "dropout": 0.0,
}
X = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
T = jnp.linspace(0.0, 1.0, 4)
LABEL = jnp.array([0, 1, 2, 1])


@functools.cache
def initial(num_classes):
    """Parameters as training begins with them."""
    init = lambda key: models.init_parameters(NCSNpp(num_classes=num_classes, **TINY), key, X.shape[1:])
    return jax.jit(init, compiler_options={"xla_backend_optimization_level": 0})(jax.random.key(1))


def randomized(network):
    """Parameters away from the zeros and ones of initialization, so that every one of them shows in the output."""
    rng = np.random.default_rng(0)
    start = initial(network.num_classes)
    return jax.tree.map(lambda p: p + jnp.asarray(0.1 * rng.normal(size=p.shape), jnp.float32), start)


def told(time, condition=None, keep=None):
    """What a block is told."""
    return Context(time, condition, keep, jnp.sqrt(2.0))


def drift_of(network, params):
    """The compiled drift."""
    return jax.jit(models.make_drift(network, params))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    fields, size, count = PUBLISHED[name]
    assert models.num_parameters(models.parameter_shapes(NCSNpp(**fields), (size, size, 3))) == count


def test_conditional_count_is_the_class_embedding_and_a_gain_in_every_block():
    """61,804,419 + 10 embeddings of 512 + (512 + 1) x channels for each of the 44 blocks."""
    blocks = [128] * 4 + [128] + ([256] * 4 + [256]) * 2 + [256] * 4  # down, with the resampling block of each level
    blocks += [256, 256]  # middle
    blocks += ([256] * 5 + [256]) * 3 + [128] * 5  # up
    expected = 61_804_419 + 10 * 512 + 513 * sum(blocks)
    assert models.num_parameters(models.parameter_shapes(NCSNpp(num_classes=10), (32, 32, 3))) == expected


def test_untrained_drift_is_zero():
    network = NCSNpp(num_classes=3, **TINY)
    np.testing.assert_allclose(drift_of(network, initial(3))(X, T, LABEL), 0.0, atol=1e-4)


def test_group_norm_is_numpys():
    x = np.asarray(jax.random.normal(jax.random.key(3), (2, 4, 4, 24))) * 3 + 1
    scale, bias = np.linspace(0.5, 2, 24), np.linspace(-1, 1, 24)
    got = GroupNorm().apply({"params": {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}}, jnp.asarray(x))
    grouped = x.reshape(2, 4, 4, 6, 4).astype(np.float64)  # min(24 / 4, 32) groups of 4 channels
    mean, var = grouped.mean((1, 2, 4), keepdims=True), grouped.var((1, 2, 4), keepdims=True)
    normal = ((grouped - mean) / np.sqrt(var + 1e-6)).reshape(x.shape)
    np.testing.assert_allclose(got, normal * scale + bias, atol=1e-5)


def test_group_norm_refuses_channels_that_do_not_divide():
    with pytest.raises(ValueError, match="multiple of 4"):
        GroupNorm().init(jax.random.key(0), jnp.ones((1, 2, 2, 130)))


def test_attention_is_numpys():
    block, context = AttentionBlock(), told(None)
    x = jax.random.normal(jax.random.key(4), (2, 3, 3, 8))
    params = block.init(jax.random.key(5), x, context)["params"]
    params["out"]["kernel"] = jax.random.normal(jax.random.key(6), (8, 8))
    got = block.apply({"params": params}, x, context)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    h = np.asarray(GroupNorm().apply({"params": params["norm"]}, x), np.float64).reshape(2, 9, 8)
    q, k, v = (h @ p[n]["kernel"] + p[n]["bias"] for n in ("query", "key", "value"))
    weights = scipy.special.softmax(q @ k.transpose(0, 2, 1) / np.sqrt(8), axis=-1)
    h = (weights @ v) @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(got, (np.asarray(x) + h.reshape(x.shape)) / np.sqrt(2), atol=1e-5)


def test_positional_embedding_is_sin_then_cos():
    got = np.asarray(positional_embedding(999 * T, 8))
    for i, t in enumerate(np.asarray(T, np.float64)):
        for j, frequency in enumerate([1.0, 1e4 ** (-1 / 3), 1e4 ** (-2 / 3), 1e-4]):
            assert got[i, j] == pytest.approx(np.sin(999 * t * frequency), abs=1e-4)
            assert got[i, 4 + j] == pytest.approx(np.cos(999 * t * frequency), abs=1e-4)
    with pytest.raises(ValueError, match="even number"):
        positional_embedding(T, 7)


@pytest.mark.parametrize("resample", ["none", "up", "down"])
def test_class_gain_of_one_is_the_unconditional_block(resample):
    """Eq. 21 with emb_c = 1: a zero kernel and a bias of one give the published block bit for bit."""
    x, vector = jax.random.normal(jax.random.key(0), (2, 4, 4, 8)), jax.random.normal(jax.random.key(1), (2, 16))
    block = ResidualBlock(12, resample=resample)
    conditional = block.init(jax.random.key(2), x, told(vector, vector), False)["params"]
    conditional["class_gain"]["kernel"] = jnp.zeros_like(conditional["class_gain"]["kernel"])
    plain = {k: v for k, v in conditional.items() if k != "class_gain"}
    got = block.apply({"params": conditional}, x, told(vector, vector), False)
    np.testing.assert_array_equal(got, block.apply({"params": plain}, x, told(vector), False))


def test_eq_21_multiplies_by_the_class_and_adds_the_time():
    """With the first convolution and norm known, the block's inner activation can be written down in numpy."""
    x, vector = jax.random.normal(jax.random.key(0), (2, 4, 4, 8)), jax.random.normal(jax.random.key(1), (2, 16))
    other = jax.random.normal(jax.random.key(3), (2, 16))
    block = ResidualBlock(8)
    p = block.init(jax.random.key(2), x, told(vector, other), False)["params"]
    _, seen = block.apply({"params": p}, x, told(vector, other), False, capture_intermediates=True)
    inner = lambda name: np.asarray(seen["intermediates"][name]["__call__"][0])
    expected = inner("conv_0") * inner("class_gain")[:, None, None] + inner("time")[:, None, None]
    normal = np.asarray(GroupNorm().apply({"params": p["norm_1"]}, jnp.asarray(expected)))
    np.testing.assert_allclose(inner("norm_1"), normal, atol=1e-5)


def test_the_class_matters_and_only_through_its_label():
    network = NCSNpp(num_classes=3, **TINY)
    drift = drift_of(network, randomized(network))
    out = drift(X, T, LABEL)
    other = drift(X, T, jnp.array([2, 1, 2, 1]))
    assert float(jnp.abs(out[0] - other[0]).max()) > 1e-3
    np.testing.assert_allclose(out[1:], other[1:], atol=1e-5)


def test_examples_do_not_see_each_other():
    network = NCSNpp(num_classes=3, **TINY)
    drift = drift_of(network, randomized(network))
    np.testing.assert_allclose(drift(X, T, LABEL)[1:2], drift(X[1:2], T[1:2], LABEL[1:2]), atol=1e-5)


def test_dropout_only_while_training():
    network = NCSNpp(**{**TINY, "dropout": 0.5})
    params = randomized(network)
    still = drift_of(network, params)
    np.testing.assert_array_equal(still(X, T, None), still(X, T, None))
    dropped = jax.jit(lambda key: models.make_drift(network, params, dropout_key=key)(X, T, None))
    a, b = dropped(jax.random.key(0)), dropped(jax.random.key(1))
    assert float(jnp.abs(a - b).max()) > 1e-3


def test_bfloat16_computes_in_it_and_returns_float32():
    network = NCSNpp(num_classes=3, **TINY, dtype="bfloat16")
    params = randomized(network)
    coarse = drift_of(network, params)(X, T, LABEL)
    fine = drift_of(models.computing_in("float32", network), params)(X, T, LABEL)
    assert coarse.dtype == jnp.float32
    difference = float(jnp.abs(coarse - fine).max())
    assert 1e-6 < difference < 0.1 * float(jnp.abs(fine).max())


def test_refuses_images_and_labels_that_do_not_fit():
    network = NCSNpp(num_classes=3, **TINY)
    params = randomized(network)
    with pytest.raises(ValueError, match="multiples of 2"):
        models.make_drift(network, params)(X[:, :7], T, LABEL)
    with pytest.raises(ValueError, match="got no condition for a network of 3 classes"):
        models.make_drift(network, params)(X, T, None)
    with pytest.raises(ValueError, match="expected None, since it is unconditional"):
        models.make_drift(NCSNpp(**TINY), params)(X, T, LABEL)


# Patches


def test_folding_puts_each_pixel_where_it_is_looked_for():
    """Pixel (y, x) of patch (i, j) in channels (2 y + x) c onwards, and back; a permutation, so orthogonal."""
    x = np.arange(2 * 8 * 4 * 3, dtype=np.float32).reshape(2, 8, 4, 3)
    folded = np.asarray(fold(jnp.asarray(x), 2))
    assert folded.shape == (2, 4, 2, 12)
    for i, j, row, column in ((0, 0, 0, 0), (3, 1, 0, 1), (2, 0, 1, 0), (1, 1, 1, 1)):
        place = 3 * (2 * row + column)
        np.testing.assert_array_equal(folded[:, i, j, place : place + 3], x[:, 2 * i + row, 2 * j + column])
    np.testing.assert_array_equal(unfold(jnp.asarray(folded), 2), x)
    np.testing.assert_array_equal(unfold(fold(jnp.asarray(x), 4), 4), x)


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_network_with_patches_is_one_of_folded_images(outputs):
    """The same parameters, on folded images and without patches: each output folded by itself."""
    fields = {**TINY, "attention_resolutions": (2,), "num_classes": 3}
    patched = NCSNpp(**fields, outputs=outputs, patch=2)
    plain = NCSNpp(**fields, outputs=outputs)
    rng = np.random.default_rng(0)
    shapes = models.parameter_shapes(patched, X.shape[1:])
    params = jax.tree.map(lambda s: jnp.asarray(0.2 * rng.normal(size=s.shape), jnp.float32), shapes)
    assert shapes == models.parameter_shapes(plain, (4, 4, 12))
    got = jax.jit(lambda x: patched.apply({"params": params}, x, T, LABEL))(X)
    wanted = jax.jit(lambda x: plain.apply({"params": params}, x, T, LABEL))(fold(X, 2))
    for given, of_folded in zip(np.split(got, outputs, axis=-1), np.split(wanted, outputs, axis=-1), strict=True):
        assert given.shape == X.shape
        np.testing.assert_allclose(fold(jnp.asarray(given), 2), of_folded, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "shape", "match"),
    [
        ({"patch": 3}, (12, 12, 3), "patch is 3, expected one of 1, 2, 4"),
        ({"patch": 4}, (12, 12, 3), "12x12 cannot be folded by patches of 4x4 and halved 1 times"),
    ],
)
def test_patches_that_do_not_fit_are_named(fields, shape, match):
    with pytest.raises(ValueError, match=match):
        of_config(NCSNpp, **{**TINY, **fields}).check_shape(shape)
