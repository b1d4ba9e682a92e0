"""Sources: the digits, and tensorflow-datasets from array_record; and what holds of every source."""

import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from scoreflow_jax import data
from scoreflow_jax.data import Digits, Merged, TfdsImages, class_counts, open_source, spread
from scoreflow_jax.data.base import DataSpec, check_spec, read_all
from scoreflow_jax.data.pictures import framed
from scoreflow_jax.errors import UserError
from tests.conftest import shared
from tests.data import fake_celeba, fake_cifar10
from tests.data.sources import settings_of


def cifar(split, folder, **changes):
    """CIFAR-10 of a folder."""
    return TfdsImages(split, settings_of("tfds", name="cifar10", path=str(folder), **{"shape": (32, 32, 3), **changes}))


def test_digits_are_scikit_learns_split_once():
    train, test = read_all(Digits("train")), read_all(Digits("test"))
    images = np.concatenate([train["image"], test["image"]]).reshape(-1, 64)
    labels = np.concatenate([train["label"], test["label"]])
    ours = sorted(bytes(i) + bytes([c]) for i, c in zip(images, labels, strict=True))
    real = load_digits()
    theirs = sorted(bytes(i) + bytes([c]) for i, c in zip(real.data.astype(np.uint8), real.target, strict=True))
    assert ours == theirs


def test_digits_hold_out_a_fifth_of_each_class_always_the_same():
    test = read_all(Digits("test"))["label"]
    every = load_digits().target
    for digit in range(10):
        assert np.sum(test == digit) == -(-np.sum(every == digit) // 5)
    np.testing.assert_array_equal(read_all(Digits("test"))["image"], read_all(Digits("test"))["image"])


def test_digits_refuse_an_unknown_split():
    with pytest.raises(UserError, match="train, test"):
        Digits("valid")


def test_tfds_reads_what_was_prepared(tfds_dir):
    images, labels = fake_cifar10.images_and_labels()
    for split, expected in (("train", slice(0, 80)), ("test", slice(80, 120))):
        source = cifar(split, tfds_dir)
        assert len(source) == len(images[expected])
        assert source.class_names == tuple(fake_cifar10.CLASSES)
        assert source.spec == DataSpec(shape=(32, 32, 3), num_classes=10, levels=256)
        examples = read_all(source)
        ours = sorted(i.tobytes() + bytes([c]) for i, c in zip(examples["image"], examples["label"], strict=True))
        theirs = sorted(i.tobytes() + bytes([c]) for i, c in zip(images[expected], labels[expected], strict=True))
        assert ours == theirs


def test_tfds_reads_without_tensorflow(tfds_dir, tmp_path, root):
    """In a process whose site-packages lack it; blocking the import instead breaks tensorflow-datasets in other ways."""
    for entry in pathlib.Path(pytest.__file__).parent.parent.iterdir():
        if not entry.name.startswith(("tensorflow-", "tensorflow_cpu-", "keras")) and entry.name != "tensorflow":
            (tmp_path / entry.name).symlink_to(entry)
    code = f"""
import importlib.util
assert importlib.util.find_spec("tensorflow") is None
from scoreflow_jax.data import TfdsImages
from tests.data.sources import settings_of
source = TfdsImages("train", settings_of("tfds", name="cifar10", path={str(tfds_dir)!r}, shape=(32, 32, 3)))
print(len(source), source[3]["image"].shape)
"""
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    result = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert result.stdout.strip() == "80 (32, 32, 3)", result.stderr[-2000:]


def test_tfds_refuses_unknown_splits(tfds_dir):
    with pytest.raises(UserError, match="expected one of train, test"):
        cifar("test", tfds_dir, test_split="valid")


def test_tfds_splits_may_be_cut(tfds_dir):
    whole = read_all(cifar("train", tfds_dir))["image"]
    first, rest = (cifar("train", tfds_dir, train_split=cut) for cut in ("train[:60]", "train[60:]"))
    np.testing.assert_array_equal(np.concatenate([read_all(first)["image"], read_all(rest)["image"]]), whole)


@pytest.mark.parametrize("split", ["train[bad]", "train[:200%]", "train[]", "train[5:3]"])
def test_tfds_splits_that_are_none_are_one_line(tfds_dir, split):
    with pytest.raises(
        UserError, match=r"has no split .* expected one of .*, or a part such as 'train\[:90%\]'"
    ) as caught:
        cifar("train", tfds_dir, train_split=split)
    assert "\n" not in str(caught.value)


def test_real_cifar10_comes_back_exactly(tmp_path):
    """500 of the real test images, prepared by tensorflow-datasets' own builder."""
    pytest.importorskip("tensorflow", reason="preparing a data set needs TensorFlow")
    stored = np.load(shared("data", "cifar10", "cifar10_test_500.npz"))
    images, labels = (next(stored[name] for name in stored if name.endswith(end)) for end in ("images", "labels"))
    fake_cifar10.prepare(tmp_path, (images, labels.astype(np.uint8)), num_train=400)
    read = [read_all(cifar(split, tmp_path)) for split in ("train", "test")]
    ours = sorted(i.tobytes() + bytes([c]) for r in read for i, c in zip(r["image"], r["label"], strict=True))
    assert ours == sorted(i.tobytes() + bytes([c]) for i, c in zip(images, labels.astype(int), strict=True))


def test_tfds_images_are_brought_to_the_shape(tfds_dir):
    """By Pillow's Lanczos; grey by its convert."""
    original = read_all(cifar("test", tfds_dir), 1)["image"][0]
    source = cifar("test", tfds_dir, shape=(16, 24, 3))
    wanted = Image.fromarray(original).crop((0, 5, 32, 26)).resize((24, 16), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(source[0]["image"], np.asarray(wanted))
    assert (source.facts["filter"], source.facts["framing"]) == ("Lanczos", "crop")
    grey = cifar("test", tfds_dir, shape=(32, 32, 1))[0]["image"]
    np.testing.assert_array_equal(grey[..., 0], np.asarray(Image.fromarray(original).convert("L")))


def test_tfds_labels_are_read_without_the_images(tfds_dir):
    source = cifar("train", tfds_dir)
    np.testing.assert_array_equal(source.labels(), read_all(source)["label"])
    assert class_counts(source) is None  # too slow for a line on the terminal


@pytest.fixture(scope="module")
def faces_dir(tmp_path_factory):
    pytest.importorskip("tensorflow", reason="preparing a data set needs TensorFlow")
    return fake_celeba.prepare(tmp_path_factory.mktemp("faces"))


def faces(folder, **changes):
    return open_source("train", settings_of("tfds", name="faces", path=str(folder), shape=(18, 18, 3), **changes))


def test_tfds_truth_values_can_be_the_classes(faces_dir):
    """As CelebA's attribute Male in configs/celeba_male_female.py, men at t = 0 and the others at t = 1."""
    source = faces(faces_dir, label="attributes/Male")
    assert source.class_names == ("not Male", "Male")
    assert np.bincount(source.labels()).tolist() == [16, 8]
    known = {framed(p, (18, 18, 3)).tobytes(): int(i % 3 == 0) for i, p in enumerate(fake_celeba.pictures())}
    assert all(known[e["image"].tobytes()] == e["label"] for e in (source[i] for i in range(len(source))))
    men = faces(faces_dir, label="attributes/Male", classes=(1,))
    assert (len(men), men.class_names, men.spec.num_classes) == (8, ("Male",), 0)


def test_tfds_without_a_label_has_no_classes(faces_dir):
    source = faces(faces_dir)
    assert (source.spec.num_classes, source.class_names, class_counts(source)) == (0, (), [24])


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("Male", "no feature 'Male'.*expected one of"),
        ("attributes/Old", "Male, Young"),
        ("landmark", "expected a class"),
    ],
)
def test_tfds_labels_that_are_none(faces_dir, label, message):
    with pytest.raises(UserError, match=message):
        faces(faces_dir, label=label)


def test_a_misspelt_name_is_said(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(UserError, match="knows no data set 'cifar100000'"):
        TfdsImages("train", settings_of("tfds", name="cifar100000", path=str(tmp_path)))


@pytest.mark.parametrize("name", ["celeb_a_hq/256", "celeb_a"])
def test_what_cannot_be_downloaded_says_where_to_get_it(tmp_path, monkeypatch, name):
    tfds = pytest.importorskip("tensorflow_datasets")
    fail = lambda *_: (_ for _ in ()).throw(ConnectionError("no network"))
    for method in ("download", "download_and_extract", "iter_archive"):
        monkeypatch.setattr(tfds.download.DownloadManager, method, fail)
    with pytest.raises(UserError, match=r"TFDS_DATA_DIR or config.data.path to its parent. CelebA") as caught:
        TfdsImages("train", settings_of("tfds", name=name, path=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_tfds_that_cannot_be_downloaded_is_one_line(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    def no_network(*_):
        raise ConnectionError("Name or service not known\nand forty lines more")

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", no_network)
    with pytest.raises(
        UserError, match="could not be prepared .ConnectionError: Name or service not known.*TFDS_DATA_DIR"
    ) as caught:
        cifar("train", tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_every_source_survives_pickling(tfds_dir, pictures_dir, tmp_path):
    """Worker processes get a copy."""
    table = tmp_path / "points.npz"
    np.savez(table, x=np.random.default_rng(0).normal(size=(40, 2)))
    arrays = tmp_path / "images.npz"
    np.savez(arrays, train_images=np.zeros((10, 8, 8, 3), np.uint8), train_labels=np.arange(10))
    made = {
        "arrays": open_source("train", settings_of("arrays", path=str(arrays))),
        "digits": Digits("train"),
        "tfds": cifar("train", tfds_dir),
        "image_folder": open_source("train", settings_of("image_folder", path=str(pictures_dir / "afhq"))),
        "merged": Merged({"a": Digits("train"), "b": Digits("test")}),
        "table": open_source("train", settings_of("table", path=str(table), shape=(2,), levels=0)),
        "toy": open_source("train", settings_of("toy", name="moons", shape=(2,), levels=0)),
    }
    assert made.keys() == data.SOURCES.keys()
    for source in made.values():
        copy = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(copy[7]["image"], source[7]["image"])
        assert copy[7]["image"].dtype == (np.uint8 if source.spec.levels else np.float32)
        assert copy[7]["label"].dtype == np.int32


def test_examples_are_spread_over_the_classes():
    labels = np.asarray([0, 0, 0, 0, 2, 2, 1], np.int32)
    assert spread(labels, 100).tolist() == [0, 6, 4, 1, 5, 2, 3]
    assert spread(labels, 3).tolist() == [0, 6, 4]
    assert spread(np.zeros(4, np.int32), 2).tolist() == [0, 1]


@pytest.mark.parametrize("source", ["arrays", "image_folder", "table", "tfds"])
def test_a_home_that_there_is_not_is_one_line(source):
    with pytest.raises(UserError, match="there is no folder ~nobody_at_all/x"):
        open_source("train", settings_of(source, path="~nobody_at_all/x", name="cifar10"))


def test_a_source_that_is_not_what_the_config_says():
    with pytest.raises(UserError, match="correct config.data"):
        check_spec(Digits("test"), DataSpec(shape=(8, 8, 1), num_classes=10, levels=256), "digits")


@pytest.mark.parametrize(("name", "classes"), [("checkerboard", 0), ("moons", 2), ("gaussians", 8)])
def test_toy_densities_are_standardized_and_fixed(name, classes):
    settings = settings_of("toy", name=name, shape=(2,), levels=0)
    train, test = (open_source(split, settings) for split in ("train", "test"))
    points = train.read(np.arange(len(train)))["image"]
    np.testing.assert_array_equal(points[:5], open_source("train", settings).read(np.arange(5))["image"])
    assert train.spec == test.spec == DataSpec(shape=(2,), num_classes=classes, levels=0)
    assert not {tuple(p) for p in points.tolist()} & {
        tuple(p) for p in test.read(np.arange(len(test)))["image"].tolist()
    }
    np.testing.assert_allclose(points.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(points.std(0), 1, atol=0.35 if name == "moons" else 0.03)
    assert train[7]["image"].dtype == np.float32
    own = points * np.asarray(train.facts["scale"]) + np.asarray(train.facts["shift"])
    if name == "checkerboard":  # eight squares, each an eighth, and nothing on the others
        cells = np.floor((own + 4) / 2).astype(int)
        number = cells[:, 0] * 4 + cells[:, 1]
        assert set(number) == {i * 4 + j for i in range(4) for j in range(4) if (i + j) % 2 == 0}
        np.testing.assert_allclose(np.bincount(number)[np.bincount(number) > 0] / len(own), 1 / 8, atol=0.01)
        assert train.facts["entropy"] == pytest.approx(np.log(32))
    if name == "gaussians":
        angle = train.labels() * np.pi / 4
        np.testing.assert_allclose((own - 4 * np.stack([np.cos(angle), np.sin(angle)], 1)).std(0), 0.3, atol=0.01)


def test_unknown_toys_are_named():
    settings = settings_of("toy", name="spiral", shape=(2,), levels=0)
    with pytest.raises(UserError, match="config.data.name is 'spiral', expected one of checkerboard, moons"):
        open_source("train", settings)
    with pytest.raises(UserError, match="no split 'validation'"):
        data.Toy("validation", settings_of("toy", name="moons", shape=(2,), levels=0))
