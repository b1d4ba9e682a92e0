"""Sources: the digits, tensorflow-datasets from array_record, and a folder of pictures."""

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
from scoreflow_jax.data import Digits, TfdsImages
from scoreflow_jax.data.base import DataSpec, check_spec, read_all
from scoreflow_jax.data.image_folder import ImageFolder, read_pictures
from scoreflow_jax.errors import UserError
from tests.data import fake_cifar10


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
        source = TfdsImages("cifar10", split, str(tfds_dir))
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
source = TfdsImages("cifar10", "train", {str(tfds_dir)!r})
print(len(source), source[3]["image"].shape)
"""
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    result = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert result.stdout.strip() == "80 (32, 32, 3)", result.stderr[-2000:]


def test_tfds_refuses_unknown_splits(tfds_dir):
    with pytest.raises(UserError, match="expected one of train, test"):
        TfdsImages("cifar10", "valid", str(tfds_dir))


def test_tfds_that_cannot_be_downloaded_is_one_line(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    def no_network(*_):
        raise ConnectionError("Name or service not known\nand forty lines more")

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", no_network)
    with pytest.raises(
        UserError, match="could not be prepared .ConnectionError: Name or service not known.*TFDS_DATA_DIR"
    ) as caught:
        TfdsImages("cifar10", "train", str(tmp_path))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_every_source_survives_pickling(tfds_dir, pictures_dir):
    """Worker processes get a copy."""
    made = {
        "digits": Digits("train"),
        "tfds": TfdsImages("cifar10", "train", str(tfds_dir)),
        "image_folder": ImageFolder(str(pictures_dir), "afhq", "train", (16, 16, 3)),
    }
    assert made.keys() == data.SOURCES.keys()
    for source in made.values():
        copy = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(copy[7]["image"], source[7]["image"])
        assert copy[7]["image"].dtype == np.uint8
        assert copy[7]["label"].dtype == np.int32


def test_a_source_that_is_not_what_the_config_says():
    with pytest.raises(UserError, match="correct config.data"):
        check_spec(Digits("test"), DataSpec(shape=(8, 8, 1), num_classes=10, levels=256), "digits")


def test_pictures_are_cropped_in_the_middle_and_resized(tmp_path):
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = (200, 100, 50)  # the centered square is of one color
    Image.fromarray(wide).save(tmp_path / "b.png")
    Image.fromarray(np.full((20, 20), 77, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    pictures = read_pictures(str(tmp_path), (16, 16, 3))
    assert pictures.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(pictures[0], 77)
    np.testing.assert_array_equal(pictures[1], np.broadcast_to([200, 100, 50], (16, 16, 3)))
    assert read_pictures(str(tmp_path), (16, 16, 1), limit=1).shape == (1, 16, 16, 1)


def test_pictures_that_are_not(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        read_pictures(str(tmp_path / "none"), (8, 8, 3))
    with pytest.raises(UserError, match="no pictures"):
        read_pictures(str(tmp_path), (8, 8, 3))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but then nothing")
    with pytest.raises(UserError, match="broken.png"):
        read_pictures(str(tmp_path), (8, 8, 3))


def test_class_folders_are_the_classes_in_order_of_their_names(tmp_path):
    for name, grey in (("wild", 250), ("cat", 10), ("dog", 100)):
        (tmp_path / "afhq" / "train" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (12, 9), grey + i).save(tmp_path / "afhq" / "train" / name / f"{i}.png")
    (tmp_path / "afhq" / "train" / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / "afhq" / "train" / "__MACOSX").mkdir()
    source = ImageFolder(str(tmp_path), "afhq", "train", (4, 4, 3))
    assert (len(source), source.class_names, source.spec.num_classes) == (6, ("cat", "dog", "wild"), 3)
    seen = [(int(e["label"]), int(e["image"].mean()), e["image"].shape) for e in (source[i] for i in range(6))]
    assert seen == [
        (0, 10, (4, 4, 3)),
        (0, 11, (4, 4, 3)),
        (1, 100, (4, 4, 3)),
        (1, 101, (4, 4, 3)),
        (2, 250, (4, 4, 3)),
        (2, 251, (4, 4, 3)),
    ]
    with pytest.raises(UserError, match="expected a sub-folder for each class"):
        ImageFolder(str(tmp_path), "afhq", "test", (4, 4, 3))
