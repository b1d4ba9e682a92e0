"""Packs: what is read from them is what was packed, damage is named, and training cannot tell them from the folder."""

import itertools
import json
import pickle
import re
import shutil

import numpy as np
import pytest

from scoreflow_jax.data import Digits, Packed, is_packed, open_source, packed
from scoreflow_jax.data.base import read_all
from scoreflow_jax.data.packed import write_pack
from scoreflow_jax.data.pipeline import train_batches
from scoreflow_jax.errors import UserError
from tests.data.sources import settings_of


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.fixture(scope="module")
def digits_pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack") / "digits"
    write_pack(folder, {"train": Digits("train"), "test": Digits("test")})
    return folder


@pytest.mark.parametrize("split", ["train", "test"])
def test_holds_exactly_what_was_packed(digits_pack, split):
    pack, digits = Packed(digits_pack, split), Digits(split)
    assert (len(pack), pack.spec, pack.class_names) == (len(digits), digits.spec, digits.class_names)
    for field, values in read_all(digits).items():
        np.testing.assert_array_equal(read_all(pack)[field], values)
        assert read_all(pack)[field].dtype == values.dtype
    np.testing.assert_array_equal(pack.labels(), digits.labels())
    np.testing.assert_array_equal(pack[17]["image"], digits[17]["image"])
    assert pack.facts == {**digits.facts, "packed": True}


def test_several_files_read_like_one(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "_SHARD_BYTES", 64 * 500)
    write_pack(tmp_path, {"train": Digits("train")})
    pack, digits = Packed(tmp_path, "train"), Digits("train")
    assert len(list(tmp_path.glob("train-*.array_record"))) == 3
    numbers = np.random.default_rng(0).permutation(len(digits))
    np.testing.assert_array_equal(pack.read(numbers)["image"], digits.read(numbers)["image"])
    np.testing.assert_array_equal(pack.read(numbers)["label"], digits.read(numbers)["label"])
    copy = pickle.loads(pickle.dumps(pack))
    np.testing.assert_array_equal(copy[1200]["image"], digits[1200]["image"])


def test_training_reads_the_same_batches_from_the_folder_and_from_its_pack(tmp_path, pictures_dir):
    """So a run may go over from one to the other, with any number of workers."""
    folder = settings_of("image_folder", path=str(pictures_dir / "afhq"), shape=(16, 16, 3))
    write_pack(tmp_path / "pack", {"train": open_source("train", folder), "test": open_source("test", folder)})
    pack = settings_of("image_folder", path=str(tmp_path / "pack"), shape=(16, 16, 3))
    assert isinstance(open_source("test", pack), Packed)
    ours, theirs = (
        list(itertools.islice(train_batches(open_source("train", s), 7, seed=4, consumed=3), 20))
        for s in (pack, folder)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["label"], b["label"])


def test_a_pack_is_whole_or_none(tmp_path, monkeypatch):
    class Broken(Digits):
        def read(self, indices):
            if indices[0] > 300:
                raise KeyboardInterrupt
            return super().read(indices)

    with pytest.raises(KeyboardInterrupt):
        write_pack(tmp_path, {"train": Broken("train")})
    assert not is_packed(tmp_path)
    with pytest.raises(UserError, match="no whole pack"):
        Packed(tmp_path, "train")
    write_pack(tmp_path, {"train": Digits("train")})  # what was left is no hindrance
    assert len(Packed(tmp_path, "train")) == len(Digits("train"))


def test_nothing_is_overwritten(tmp_path, digits_pack):
    with pytest.raises(UserError, match="holds a pack already"):
        write_pack(digits_pack, {"train": Digits("train")})
    for name in ("my-labels.npy", "backup.array_record"):  # not of a pack's own names
        mine = tmp_path / name.split(".")[0]
        mine.mkdir()
        (mine / name).write_text("years of work")
        with pytest.raises(UserError, match="expected an empty folder"):
            write_pack(mine, {"train": Digits("train")})
        assert (mine / name).read_text() == "years of work"
    tmp_path = tmp_path / "other"
    tmp_path.mkdir()
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=re.escape("holds 'thesis.tex', expected an empty folder")):
        write_pack(tmp_path, {"train": Digits("train")})
    (tmp_path / "a file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        write_pack(tmp_path / "a file" / "pack", {"train": Digits("train")})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("test-00000-of-00001.array_record", lambda b: b[:-500], "pack the data again"),
        ("test-00000-of-00001.array_record", None, "pack the data again"),
        ("test-labels.npy", lambda b: b[:-8], "pack the data again"),
        ("test-labels.npy", None, "pack the data again"),
        ("info.json", lambda b: b"{", r"info.json is damaged .*pack the data again"),
        (
            "info.json",
            lambda b: b.replace(b'"levels": 17', b'"levels": 16'),
            r"info.json is damaged .*pack the data again",
        ),
        ("info.json", None, "no whole pack"),
        # A bit turned over: array_record compares what it reads, and the rest has sums of our own.
        ("test-00000-of-00001.array_record", lambda b: flipped(b, len(b) // 2), "pack the data again"),
        ("test-labels.npy", lambda b: flipped(b, len(b) - 8), "test-labels.npy has another sum"),
        ("SHA256SUMS", lambda b: flipped(b, 8), "test-labels.npy has another sum|SHA256SUMS is damaged"),
    ],
)
def test_damage_is_named(tmp_path, name, change, message):
    write_pack(tmp_path, {"test": Digits("test")})
    file = tmp_path / name
    file.write_bytes(change(file.read_bytes())) if change else file.unlink()
    with pytest.raises(UserError, match=message) as caught:
        read_all(Packed(tmp_path, "test"))
    assert "\n" not in str(caught.value)


def test_a_disk_that_is_full_is_one_line(tmp_path, monkeypatch):
    """array_record says RuntimeError."""

    class Full:
        def __init__(self, *_):
            pass

        def write(self, _):
            raise RuntimeError("write() failed: No space left on device\nand more")

    from array_record.python import array_record_module

    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", Full)
    with pytest.raises(UserError, match="cannot write to .*No space left on device.: give another --out") as caught:
        write_pack(tmp_path, {"train": Digits("train")})
    assert "\n" not in str(caught.value)


def test_nothing_outside_a_pack_is_read(tmp_path, digits_pack):
    """Names in info.json are not trusted, links are not followed."""
    pack = tmp_path / "pack"
    shutil.copytree(digits_pack, pack)
    record = pack / "test-00000-of-00001.array_record"
    record.rename(tmp_path / "outside")
    record.symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="is a link, expected a file of the pack"):
        Packed(pack, "test")


def test_labels_outside_the_classes_are_damage(tmp_path):
    write_pack(tmp_path, {"test": Digits("test")})
    labels = np.load(tmp_path / "test-labels.npy")
    labels[5] = 10
    np.save(tmp_path / "test-labels.npy", labels)
    (tmp_path / "SHA256SUMS").unlink()  # as of an earlier version
    with pytest.raises(UserError, match="labels outside its 10 classes"):
        Packed(tmp_path, "test")


@pytest.mark.parametrize(("field", "value"), [("framing", "fit"), ("test_share", 0.5), ("label", "other")])
def test_a_pack_is_not_read_under_settings_that_it_was_not_made_with(tmp_path, field, value):
    made = settings_of("tfds", path=str(tmp_path))
    write_pack(tmp_path, {"test": Digits("test")}, made)
    assert len(open_source("test", made)) == len(Digits("test"))
    with pytest.raises(UserError, match=f"was made with config.data.{field}=.*pack the data again"):
        open_source("test", settings_of("tfds", path=str(tmp_path), **{field: value}))


def test_a_split_that_was_not_packed(tmp_path):
    write_pack(tmp_path, {"train": Digits("train")})
    with pytest.raises(UserError, match="has no split 'test', expected train"):
        Packed(tmp_path, "test")
    info = json.loads((tmp_path / "info.json").read_text())
    assert info["splits"] == {"train": [len(Digits("train"))]}
