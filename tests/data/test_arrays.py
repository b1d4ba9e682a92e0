"""Images in an npz: what is read, what is refused and how, and that a resumed run notices other images."""

import numpy as np
import pytest

from scoreflow_jax.data import Arrays, NoExamples, class_counts, open_source
from scoreflow_jax.data.base import DataSpec, read_all
from scoreflow_jax.data.trained_on import _share_kept
from scoreflow_jax.errors import UserError
from tests.data.sources import settings_of


def arrays_of(train=24, test=8, seed=0, shape=(8, 8, 3)):
    """Random images of three classes, by the names that CIFAR-10 has in such a file."""
    rng = np.random.default_rng(seed)
    stored = {}
    for split, count in (("train", train), ("test", test)):
        stored[f"{split}_images"] = rng.integers(0, 256, (count, *shape), np.uint8)
        stored[f"{split}_labels"] = np.arange(count) % 3
    return stored


def saved(folder, stored):
    """Its settings."""
    path = folder / "images.npz"
    np.savez(path, **stored)
    return settings_of("arrays", path=str(path))


def test_images_and_labels_come_back_exactly(tmp_path):
    stored = arrays_of()
    settings = saved(tmp_path, stored)
    for split in ("train", "test"):
        source = open_source(split, settings)
        assert isinstance(source, Arrays)
        assert source.spec == DataSpec(shape=(8, 8, 3), num_classes=3, levels=256)
        assert source.class_names == ("0", "1", "2")
        examples = read_all(source)
        np.testing.assert_array_equal(examples["image"], stored[f"{split}_images"])
        np.testing.assert_array_equal(examples["label"], stored[f"{split}_labels"])
        assert (examples["image"].dtype, examples["label"].dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(source.labels(), stored[f"{split}_labels"])
        np.testing.assert_array_equal(source[5]["image"], stored[f"{split}_images"][5])
    assert class_counts(open_source("train", settings)) == [8, 8, 8]


def test_images_without_a_channel_axis_are_grey(tmp_path):
    source = Arrays("train", saved_grey(tmp_path))
    assert source.spec.shape == (8, 8, 1)


def saved_grey(folder):
    settings = saved(folder, arrays_of(shape=(8, 8)))
    return settings_of("arrays", path=settings.path, shape=(8, 8, 1))


def test_without_labels_there_are_no_classes(tmp_path):
    stored = {name: array for name, array in arrays_of().items() if not name.endswith("labels")}
    source = Arrays("train", saved(tmp_path, stored))
    assert (source.spec.num_classes, source.class_names, class_counts(source)) == (0, (), [24])
    assert not source.labels().any()


def test_both_splits_have_the_classes_of_either(tmp_path):
    """The test split may lack the last class."""
    stored = arrays_of()
    stored["test_labels"] = np.zeros(8, np.uint8)
    assert Arrays("test", saved(tmp_path, stored)).spec.num_classes == 3


def test_classes_can_have_names(tmp_path):
    names = np.asarray(["katt", "hund", "öküz"])
    source = Arrays("train", saved(tmp_path, {**arrays_of(), "class_names": names}))
    assert source.class_names == ("katt", "hund", "öküz")


def test_splits_can_have_other_names_and_share_nothing_else(tmp_path):
    stored = {name.replace("test_", "valid_"): array for name, array in arrays_of().items()}
    path = saved(tmp_path, stored).path
    assert len(Arrays("test", settings_of("arrays", path=path, test_split="valid"))) == 8


def test_a_split_that_is_not_there_has_no_examples(tmp_path):
    """So that --mode=pack leaves it out."""
    stored = {name: array for name, array in arrays_of().items() if name.startswith("train")}
    settings = saved(tmp_path, stored)
    assert len(Arrays("train", settings)) == 24
    with pytest.raises(NoExamples, match=r"holds train_images, train_labels, expected test_images"):
        Arrays("test", settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": np.zeros((24, 8, 8, 3), np.float32)}, r"float32 \(24, 8, 8, 3\), expected uint8"),
        ({"train_images": np.zeros((24, 192), np.uint8)}, r"uint8 \(24, 192\), expected uint8 \(images, height"),
        (
            {"train_images": np.zeros((24, 9, 8, 3), np.uint8)},
            r"images of \(9, 8, 3\), but config.data.shape is \(8, 8",
        ),
        ({"train_images": np.zeros((23, 8, 8, 3), np.uint8)}, "23 images in train_images and 24 labels"),
        ({"train_images": np.zeros((0, 8, 8, 3), np.uint8)}, "train_images of .* is empty"),
        (
            {"train_labels": np.zeros((24, 1), np.int64)},
            r"train_labels of .* is int64 \(24, 1\), expected whole numbers",
        ),
        ({"train_labels": np.zeros(24)}, "float64 .*expected whole numbers"),
        ({"train_labels": np.full(24, -1)}, "goes from -1 to -1, expected classes numbered from 0"),
        ({"test_labels": np.full(8, 10**9)}, "to 1000000000, expected classes"),
        ({"class_names": np.asarray(["a", "b"])}, "expected a text for each of 3 classes"),
        ({"class_names": np.arange(3)}, r"class_names of .* is int64 \(3,\)"),
        ({"class_names": np.asarray(["a", "b", None], object)}, "cannot read .*expected an npz"),
        ({"train_labels": None}, "expected train_labels too"),
        ({"train_images": None}, "holds train_labels, test_images, test_labels, expected train_images"),
    ],
)
def test_arrays_of_another_kind_are_one_line(tmp_path, changes, message):
    stored = {name: array for name, array in {**arrays_of(), **changes}.items() if array is not None}
    with pytest.raises(UserError, match=message) as caught:
        Arrays("train", saved(tmp_path, stored))
    assert "\n" not in str(caught.value)


def test_files_that_are_none_are_one_line(tmp_path):
    """A missing one, a folder, text, one array, and a file cut short or with a flipped byte."""
    whole = tmp_path / "whole.npz"
    np.savez(whole, **arrays_of())
    content = whole.read_bytes()
    broken = {
        "missing.npz": None,
        "text.npz": b"no arrays",
        "empty.npz": b"",
        "short.npz": content[: len(content) // 2],
        "flipped.npz": content[:400] + bytes([content[400] ^ 255]) + content[401:],
    }
    np.save(tmp_path / "one.npy", np.zeros(3, np.uint8))
    for name, data in broken.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
    for name in (*broken, "one.npy", "."):
        with pytest.raises(UserError, match="is not a file|cannot read .*expected an npz of images") as caught:
            Arrays("train", settings_of("arrays", path=str(tmp_path / name)))
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="config.data.path=FILE.npz"):
        Arrays("train", settings_of("arrays"))


def test_the_sketch_tells_other_images_from_more_of_the_same(tmp_path):
    def sketch(stored):
        return Arrays("train", saved(tmp_path, stored)).facts["sketch"]

    first, other = arrays_of(300), arrays_of(300, seed=1)
    more = {
        **first,
        **{f"train_{n}": np.concatenate([first[f"train_{n}"], other[f"train_{n}"]]) for n in ("images", "labels")},
    }
    relabelled = {**first, "train_labels": (first["train_labels"] + 1) % 3}
    assert _share_kept(sketch(first), sketch(first)) == 1.0
    assert _share_kept(sketch(first), sketch(more)) == 1.0
    assert _share_kept(sketch(first), sketch(other)) == 0.0
    assert _share_kept(sketch(first), sketch(relabelled)) == 0.0


def test_arrays_without_names_are_images_and_labels_of_one_split(tmp_path):
    """As guided-diffusion writes samples; every image is in one split, whatever else the file holds."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 8, 8, 3), np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "samples.npz", images, labels)
    settings = settings_of("arrays", path=str(tmp_path / "samples.npz"), test_share=0.3)
    train, test = (open_source(split, settings) for split in ("train", "test"))
    assert (train.spec.num_classes, train.class_names) == (3, ("0", "1", "2"))
    assert 8 < len(test) < 30
    found = np.concatenate([read_all(source)["image"] for source in (train, test)])
    where = [next(i for i, image in enumerate(images) if np.array_equal(image, one)) for one in found]
    assert sorted(where) == list(range(60))
    np.testing.assert_array_equal(np.concatenate([train.labels(), test.labels()]), labels[where])
    np.savez(tmp_path / "samples.npz", images[:40])  # without labels, and fewer
    fewer = open_source("test", settings)
    assert fewer.spec.num_classes == 0
    kept = [i for i in where[len(train) :] if i < 40]
    np.testing.assert_array_equal(read_all(fewer)["image"], images[sorted(kept)])
    with pytest.raises(NoExamples, match="test_share=0 holds out"):
        open_source("test", settings_of("arrays", path=settings.path, test_share=0.0))
