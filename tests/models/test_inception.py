"""Inception-v3 against stored features of the real network, TensorFlow's resize and pooling, and its public files' names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.extractors import inception_extractor
from scoreflow_jax.evaluation.weights import find_inception
from scoreflow_jax.models import inception, inception_weights
from scoreflow_jax.models.inception_weights import import_inception
from scoreflow_jax.torch_files import read_torch_file
from tests.conftest import shared
from tests.torch_writer import checkpoint

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def weights_file():
    """The released weights; skips where they are not installed and cannot be downloaded."""
    try:
        return find_inception()
    except UserError as error:
        pytest.skip(f"no Inception weights here: {error}")


def test_pool3_is_that_of_the_released_network(weights_file):
    """Stored features of 8 CIFAR-10 test images, half-pixel resize."""
    golden = np.load(shared("fixtures", "pool3_golden_8_cifar_test.npz"))
    extractor = inception_extractor(str(weights_file), "half_pixel")
    features = extractor(golden["images"])
    error = np.linalg.norm(features - golden["pool3"]) / np.linalg.norm(golden["pool3"])
    assert error < 1e-4
    assert extractor.facts["extractor"] == "Inception-v3 of 2015-12-05, pool3"
    # Padding of the last batch is ignored, and order and batch do not matter.
    np.testing.assert_allclose(extractor(golden["images"][5:3:-1]), features[5:3:-1], rtol=1e-4, atol=1e-5)
    # The published code's resize is another one, and it shows.
    other = inception_extractor(str(weights_file), "tensorflow")
    assert other.identity != extractor.identity
    difference = np.linalg.norm(other(golden["images"]) - features) / np.linalg.norm(features)
    assert 0.01 < difference < 0.5


@pytest.mark.parametrize("size", [(32, 32), (8, 20), (400, 299)])
@pytest.mark.parametrize("how", inception.RESIZES)
def test_resize_is_tensorflows(size, how):
    tf = pytest.importorskip("tensorflow")
    pixels = RNG.integers(0, 256, (2, *size, 3), np.uint8)
    got = inception.resize(jnp.asarray(pixels), how)
    theirs = tf.compat.v1.image.resize_bilinear(
        pixels.astype(np.float32), (299, 299), align_corners=False, half_pixel_centers=how == "half_pixel"
    ).numpy()
    expected = (theirs - 128) / 128 if how == "tensorflow" else theirs / 127.5 - 1
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_pools_are_tensorflows():
    tf = pytest.importorskip("tensorflow")
    x = jnp.asarray(RNG.normal(size=(2, 9, 7, 3)), jnp.float32)
    np.testing.assert_allclose(inception.average_pool(x), tf.nn.avg_pool2d(x, 3, 1, "SAME"), atol=1e-6)
    np.testing.assert_array_equal(inception.max_pool(x, 1), tf.nn.max_pool2d(x, 3, 1, "SAME"))
    np.testing.assert_array_equal(inception.max_pool(x, 2), tf.nn.max_pool2d(x, 3, 2, "VALID"))


@pytest.mark.parametrize(("kernel", "stride", "same"), [((1, 1), 1, True), ((3, 3), 2, False), ((1, 7), 1, True)])
def test_convolutions_are_tensorflows(kernel, stride, same):
    tf = pytest.importorskip("tensorflow")
    x = RNG.normal(size=(2, 17, 16, 5)).astype(np.float32)
    k = RNG.normal(size=(*kernel, 5, 4)).astype(np.float32)
    expected = tf.nn.conv2d(x, k, stride, "SAME" if same else "VALID")
    np.testing.assert_allclose(inception._convolve(x, k, stride, same), expected, atol=1e-4)


def tensors_by_both_names():
    """Random weights of the right shapes as NVIDIA's and as pytorch-fid's files hold them."""
    template = jax.eval_shape(inception.InceptionV3().init, jax.random.key(0), jnp.zeros((1, 299, 299, 3)))["params"]
    nvidia, torchvision = {}, {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(template)[0]:
        if path[-1].key != "kernel":
            continue
        name = ".".join(k.key for k in path[:-1])
        h, w, i, o = leaf.shape
        weight = RNG.normal(size=(o, i, h, w)).astype(np.float16)  # small files
        norm = {"beta": RNG.normal(size=o), "mean": RNG.normal(size=o), "var": RNG.uniform(0.5, 2, size=o)}
        norm = {k: v.astype(np.float32) for k, v in norm.items()}
        nvidia |= {f"layers.{name}.weight": weight, **{f"layers.{name}.{k}": v for k, v in norm.items()}}
        theirs = inception_weights._torchvision_name(name)
        torchvision[f"{theirs}.conv.weight"] = weight
        torchvision[f"{theirs}.bn.weight"] = np.ones(o, np.float32)
        for ours, suffix in {"beta": "bias", "mean": "running_mean", "var": "running_var"}.items():
            torchvision[f"{theirs}.bn.{suffix}"] = norm[ours]
    output = RNG.normal(size=(1008, 2048)).astype(np.float16)
    return nvidia | {"output.weight": output}, torchvision | {"fc.weight": output}


@pytest.fixture(scope="module")
def both():
    return tensors_by_both_names()


def test_both_ways_of_naming_give_the_same_weights(both):
    nvidia, torchvision = (import_inception(tensors) for tensors in both)
    assert nvidia.fingerprint == torchvision.fingerprint
    assert not nvidia.released
    np.testing.assert_array_equal(nvidia.output, torchvision.output)
    assert nvidia.output.shape == (2048, 1008)
    # Folding, written out for one convolution.
    name = "layers.mixed_4.tower_1.conv_3"
    t = {k: np.asarray(both[0][f"{name}.{k}"], np.float64) for k in ("weight", "beta", "mean", "var")}
    found = nvidia.params["mixed_4"]["tower_1"]["conv_3"]
    scale = 1 / np.sqrt(t["var"] + 1e-3)
    np.testing.assert_allclose(found["kernel"][2, 0, 5, 7], t["weight"][7, 5, 2, 0] * scale[7], rtol=1e-6)
    np.testing.assert_allclose(found["bias"], t["beta"] - t["mean"] * scale, rtol=1e-5, atol=1e-6)


def test_torchvision_names_are_the_known_ones(both):
    """Some that a wrong table would get wrong, from pytorch-fid's file."""
    shapes = {k: v.shape for k, v in both[1].items()}
    assert shapes["Conv2d_4a_3x3.conv.weight"] == (192, 80, 3, 3)
    assert shapes["Mixed_5b.branch5x5_2.conv.weight"] == (64, 48, 5, 5)
    assert shapes["Mixed_5d.branch_pool.conv.weight"] == (64, 288, 1, 1)
    assert shapes["Mixed_6a.branch3x3.conv.weight"] == (384, 288, 3, 3)
    assert shapes["Mixed_6c.branch7x7_2.conv.weight"] == (160, 160, 1, 7)
    assert shapes["Mixed_6c.branch7x7dbl_2.conv.weight"] == (160, 160, 7, 1)
    assert shapes["Mixed_7a.branch7x7x3_4.conv.weight"] == (192, 192, 3, 3)
    assert shapes["Mixed_7b.branch3x3_2a.conv.weight"] == (384, 384, 1, 3)
    assert shapes["Mixed_7c.branch3x3dbl_2.conv.weight"] == (384, 448, 3, 3)
    assert len([k for k in shapes if k.endswith("conv.weight")]) == 94


def test_wrong_weights_are_named(both):
    nvidia = both[0]
    missing = {k: v for k, v in nvidia.items() if k != "layers.mixed_9.tower_conv.mean"}
    with pytest.raises(ValueError, match="no tensor layers.mixed_9.tower_conv.mean"):
        import_inception(missing)
    with pytest.raises(ValueError, match=r"conv_1.weight has shape \(1,\), expected \(32, 32, 3, 3\): it is another"):
        import_inception(nvidia | {"layers.conv_1.weight": np.zeros(1)})
    with pytest.raises(ValueError, match="layers.conv.var has numbers that are not finite"):
        import_inception(nvidia | {"layers.conv.var": np.full(32, np.nan, np.float32)})
    for content in ({"weight": np.zeros(3)}, [1, 2], "text"):
        with pytest.raises(ValueError, match="no first convolution of Inception-v3"):
            import_inception(content)


def test_a_file_of_another_network_is_refused_in_a_line(tmp_path):
    file = tmp_path / "other.pth"
    checkpoint(file, {"features.0.weight": np.zeros((3, 3), np.float32)}, [], 0)
    assert "features.0.weight" in read_torch_file(file)["model"]
    with pytest.raises(UserError, match="other.pth does not hold Inception's weights: it has no first convolution"):
        inception_extractor(str(file))
