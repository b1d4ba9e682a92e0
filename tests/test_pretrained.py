"""The models that are shipped with the package: whole, of what they say, and as good as is said of them."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from scoreflow_jax import load, to_pixels
from scoreflow_jax.command_line import load_config
from scoreflow_jax.commands.teacher import begun_from, open_teacher
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.extractors import inception_extractor
from scoreflow_jax.experiment import build, resolve
from scoreflow_jax.metrics.kernel import squared_mmd
from scoreflow_jax.ode import Solver
from scoreflow_jax.parallel import make_layout
from scoreflow_jax.plain_config import to_plain
from scoreflow_jax.published import SHIPPED, WEIGHTS, shipped
from scoreflow_jax.sums import check_sums, files_below
from tests.conftest import ROOT, shared

MEANS = {0: (0.051, 0.121, 0.178), 6: (-0.060, -0.123, -0.310)}
"""Of CIFAR-10's training images of aeroplanes and of frogs, by colour."""

KID = {"fast": 0.03, "one jump": 0.055}
"""That 200 photographs, or 100, stay below, of Inception's features, against 100 test images; Heun's in 20 calls have 0.061."""

WAYS = {"fast": Solver.of_preset("fast"), "one jump": Solver(method="flow_map", num_steps=1)}


@pytest.fixture(scope="module")
def photographs():
    return load("cifar10-small")


def test_they_are_few_and_small():
    assert shipped() == ["cifar10-small", "digits-flow-map"]
    assert sum((SHIPPED / name).stat().st_size for name in files_below(SHIPPED)) < 16e6


@pytest.mark.parametrize("name", shipped())
def test_they_are_whole_and_name_no_machine(name):
    assert check_sums(SHIPPED / name)
    config = json.loads((SHIPPED / name / "config.json").read_text())
    assert config["data"]["path"] is None
    assert config["objective"].get("teacher") is None
    card = (SHIPPED / name / "README.md").read_text()
    assert f'load("{name}")' in card
    assert f"--workdir=pretrained:{name}" in card


def test_a_damaged_byte_is_refused(tmp_path):
    folder = pathlib.Path(shutil.copytree(SHIPPED / "digits-flow-map", tmp_path / "model"))
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1000] ^= 4
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(UserError, match="not as it was published: model.safetensors has another sum"):
        load(folder)


def test_the_photographs_drift_is_that_of_its_data_where_it_is_known(photographs):
    """At t = 0 the point says nothing of the image: f(x, 0, c) = E[image | c] - x, so f + x is the class's mean for any noise.

    This young network comes within 0.2 of it: it hardly ever saw such times.
    """
    x = jax.random.normal(jax.random.key(0), (8, 32, 32, 3))
    for label, mean in MEANS.items():
        found = np.asarray(photographs.drift(x, 0.0, label) + x)
        assert found.std(axis=0).mean() < 0.2  # of the noise's 1
        np.testing.assert_allclose(found.mean(axis=(0, 1, 2)), mean, atol=0.2)
        blue = found[..., 2].mean() - found[..., 0].mean()
        assert np.sign(blue) == np.sign(mean[2] - mean[0])  # blue skies, brown frogs


@pytest.mark.parametrize("way", KID)
def test_photographs_are_near_to_real_ones(photographs, way):
    try:
        extractor = inception_extractor()
    except UserError as error:
        pytest.skip(f"no Inception weights here: {error}")
    with np.load(shared("data", "cifar10", "cifar10_test_500.npz")) as file:
        chosen = np.argsort(file["labels"], kind="stable").reshape(10, -1)[:, :10].ravel()
        real = file["images"][chosen]
    made = photographs.with_solver(WAYS[way]).generate(0, np.arange(200 if way == "fast" else 100) % 10)
    assert squared_mmd(extractor(to_pixels(made)), extractor(real)) < KID[way]


def test_a_photograph_is_translated_and_comes_back(photographs):
    """Ships that are made here, to lorries and back by the same ODE: changed on the way, and 2 grey levels off in the end."""
    model = photographs.with_solver(Solver(method="midpoint", num_steps=10))
    ships = np.clip(model.generate(1, [8] * 4), -1, 1)
    lorries = model.translate(ships, 8, 9)
    assert np.abs(lorries - ships).mean() > 0.1
    assert np.abs(model.translate(lorries, 9, 8) - ships).mean() < 0.03


@pytest.mark.parametrize("calls", [1, 4])
def test_digits_are_translated_in_few_calls(calls):
    """Each digit to the next, by so many jumps each way; judged by a classifier of scikit-learn's."""
    pixels, labels = load_digits(return_X_y=True)
    judge = SVC(C=10).fit(pixels, labels)
    images = jnp.asarray((pixels[:100].reshape(-1, 8, 8, 1) + 0.5) / 17 * 2 - 1, jnp.float32)
    model = load("digits-flow-map").with_solver(Solver(method="flow_map", num_steps=calls))
    found = model.translate(images, labels[:100], (labels[:100] + 1) % 10)
    levels = np.clip(np.floor(17 * (found + 1) / 2), 0, 16).reshape(100, 64)
    assert np.mean(judge.predict(levels) == (labels[:100] + 1) % 10) > 0.93


def test_a_shipped_model_can_be_the_teacher_of_a_flow_map():
    """Named as everywhere; the run then knows it by its weights, and begins with them."""
    config = to_plain(load_config(str(ROOT / "configs" / "cifar10_small.py") + ":flow_map"))
    config["objective"]["teacher"] = "pretrained:cifar10-small"
    taught, teacher = open_teacher(build(resolve(config)), make_layout())
    assert taught.config["objective"]["teacher_sha256"] == teacher.fingerprint
    assert teacher.fingerprint == load("cifar10-small").fingerprint
    fresh = {**jax.tree.map(jnp.zeros_like, teacher.params), "new": {"kernel": jnp.ones((1, 1))}}
    begun, theirs = begun_from(fresh, teacher, taught)
    assert theirs
    for name in ("in_conv", "jump_0"):  # it jumps itself
        np.testing.assert_array_equal(begun[name]["kernel"], teacher.params[name]["kernel"])
    assert begun["new"]["kernel"] == 1
