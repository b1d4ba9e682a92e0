"""A user's own folder of pictures as a data set: splits that stay, classes, sizes, and what is refused."""

import dataclasses
import itertools
import json
import os
import pathlib
import pickle
import shutil
import tempfile
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scoreflow_jax.data import ImageFolder, class_counts, image_folder, open_source
from scoreflow_jax.data.base import DataSpec, read_all
from scoreflow_jax.data.image_folder import ENLARGED, read_pictures
from scoreflow_jax.data.pictures import FRAMINGS, framed, printable, read_picture
from scoreflow_jax.data.pipeline import train_batches
from scoreflow_jax.errors import UserError
from tests.conftest import shared
from tests.data.folders import noise, one_line, reachable_folder, without_rights, write
from tests.data.sources import settings_of


@pytest.fixture(autouse=True)
def anew(tmp_path_factory, monkeypatch):
    """Each test with an empty cache, and warned of what others were."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(image_folder, "_warned", set())


def opened(folder, split="train", **changes):
    return open_source(split, settings_of("image_folder", path=str(folder), **{"shape": (4, 4, 3), **changes}))


def names_of(source):
    return [source._names[int(i)] for i in source._chosen]


def both(folder, **changes):
    """The names of the files in either split; one may be empty."""
    found = []
    for split in ("train", "test"):
        try:
            found.append(names_of(opened(folder, split, **changes)))
        except UserError as error:
            if "are in the split" not in str(error):
                raise
            found.append([])
    return found


def refusal(folder, *parts, split="train", **changes):
    with pytest.raises(UserError) as caught:
        opened(folder, split, **changes)
    one_line(caught, *parts)


# Classes and pixels


def test_class_folders_are_the_classes_in_order_of_their_names(tmp_path):
    for name, grey in (("wild", 250), ("cat", 10), ("dog", 100)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (12, 9), grey + i).save(tmp_path / "train" / name / f"{i}.png")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / "train" / "__MACOSX").mkdir()
    source = opened(tmp_path)
    assert isinstance(source, ImageFolder)
    assert (len(source), source.class_names) == (6, ("cat", "dog", "wild"))
    assert source.spec == DataSpec((4, 4, 3), 3, 256)
    seen = [(int(e["label"]), int(e["image"].mean()), e["image"].shape) for e in (source[i] for i in range(6))]
    assert seen == [
        (label, grey, (4, 4, 3)) for label, grey in ((0, 10), (0, 11), (1, 100), (1, 101), (2, 250), (2, 251))
    ]
    np.testing.assert_array_equal(source.labels(), read_all(source)["label"])
    assert class_counts(source) == [2, 2, 2]


def test_pictures_without_sub_folders_are_data_without_labels(tmp_path):
    source = opened(write(tmp_path, *(f"{i}.png" for i in range(5))), test_share=0.0)
    assert (source.spec.num_classes, source.class_names, class_counts(source)) == (0, (), [5])
    assert [int(e["label"]) for e in (source[i] for i in range(5))] == [0] * 5
    assert [int(source[i]["image"][0, 0, 0]) for i in range(5)] == [0, 1, 2, 3, 4]


def test_one_class_is_data_without_labels_and_keeps_its_name(tmp_path):
    source = opened(write(tmp_path, "handbags/1.png", "handbags/2.png"), test_share=0.0)
    assert (source.spec.num_classes, source.class_names, class_counts(source)) == (0, ("handbags",), [2])
    assert source.labels().tolist() == [0, 0]


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_size_and_mode_has_the_configured_shape(tmp_path, framing, channels):
    """As read_picture reads it, whose numbers have their own tests."""
    pixels = noise(20, 31)
    for i, mode in enumerate(("L", "RGB", "1", "P", "LA", "RGBA")):
        Image.fromarray(pixels).convert(mode).resize((9 + i, 30 - 4 * i)).save(tmp_path / f"{mode}.png")
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "CMYK.jpg")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    shape = (12, 7, channels)
    source = opened(tmp_path, shape=shape, framing=framing, test_share=0.0)
    assert (source.spec.shape, len(source)) == (shape, 8)
    for i, name in enumerate(names_of(source)):
        np.testing.assert_array_equal(source[i]["image"], read_picture(tmp_path / name, shape, framing))
        assert source[i]["image"].shape == shape
    sixteen = names_of(source).index("sixteen.png")
    grey = Image.fromarray(pixels[..., 0]).convert("L" if channels == 1 else "RGB")
    np.testing.assert_array_equal(source[sixteen]["image"], framed(grey, shape, framing))


def test_the_facts_of_a_report_are_plain_values(tmp_path):
    facts = opened(write(tmp_path, "1.png", "2.png"), test_share=0.0, framing="fit").facts
    assert json.loads(json.dumps(facts)) == facts
    assert {**facts, "sketch": 0} == {
        "kind": "folder of pictures",
        "filter": "Lanczos",
        "framing": "fit",
        "held_out": "0 of the files, by their names' hash",
        "jpeg": 0.0,
        "sketch": 0,
    }
    assert len(facts["sketch"]) == 2


def test_pickles_and_reads_the_same(tmp_path):
    """Worker processes get a copy."""
    source = opened(write(tmp_path, "cat/1.png", "dog/猫.png", "dog/2.png"), test_share=0.0)
    copy = pickle.loads(pickle.dumps(source))
    for field, values in read_all(source).items():
        np.testing.assert_array_equal(read_all(copy)[field], values)
    assert (copy.spec, copy.class_names, copy.facts) == (source.spec, source.class_names, source.facts)


def test_class_names_can_be_printed(tmp_path):
    for name in ("two\nlines", os.fsdecode(b"\xff\xfe"), "猫"):
        try:
            write(tmp_path, f"{name}/1.png", f"{name}/2.png")
        except OSError:
            pytest.skip("this file system does not take that name")
    source = opened(tmp_path, test_share=0.0)
    assert sorted(source.class_names) == sorted([r"two\nlines", r"\udcff\udcfe", "猫"])
    assert read_all(source)["image"].shape == (6, 4, 4, 3)


# What is held out


def test_about_the_share_is_held_out_and_nothing_is_lost(tmp_path):
    names = [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(300)]
    one = write(tmp_path, names[0])
    data = (one / names[0]).read_bytes()
    (tmp_path / "dog").mkdir()
    for name in names[1:]:
        (tmp_path / name).write_bytes(data)
    kept, held = both(tmp_path, test_share=0.25)
    assert sorted(kept + held) == sorted(names)
    assert abs(len(held) - 150) < 4 * np.sqrt(600 * 0.25 * 0.75)
    assert abs(sum(name.startswith("cat") for name in held) - 75) < 4 * np.sqrt(300 * 0.25 * 0.75)
    less = both(tmp_path, test_share=0.1)[1]
    assert set(less) < set(held)  # a greater share holds out these and more


_SETS = st.sets(st.text(st.sampled_from("abcé猫01"), min_size=1, max_size=5), max_size=12)


@given(old=_SETS, new=_SETS, classes=st.booleans(), share=st.sampled_from([0.0, 0.1, 0.5, 0.9]), apart=st.booleans())
@settings(max_examples=40, deadline=None)
def test_new_files_move_no_old_ones(old, new, classes, share, apart):
    """Between training and test; nor do files that go, nor another spelling of the same letters."""
    with tempfile.TemporaryDirectory() as folder:
        name = lambda stem: f"{'cat' if len(stem) % 2 else 'dog'}/{stem}.png" if classes else f"{stem}.png"
        write(folder, *map(name, old), name("zz"), name("zzz"))
        kept, held = both(folder, test_share=share)
        assert sorted(kept + held) == sorted(map(name, old | {"zz", "zzz"}))
        assert not set(kept) & set(held)
        if apart:
            for stem in old:
                path = pathlib.Path(folder) / name(stem)
                path.rename(unicodedata.normalize("NFD", str(path)))
        write(folder, *map(name, new))
        (pathlib.Path(folder) / name("zz")).unlink(missing_ok=True)
        composed = lambda names: {unicodedata.normalize("NFC", n) for n in names}
        kept_after, held_after = map(composed, both(folder, test_share=share))
        gone = {name("zz")}
        assert set(kept) - gone == kept_after & set(kept)
        assert set(held) - gone == held_after & set(held)
        assert not kept_after & held_after


def test_nothing_is_held_out_of_no_share(tmp_path):
    write(tmp_path, *(f"{i}.png" for i in range(30)))
    assert len(opened(tmp_path, test_share=0.0)) == 30
    refusal(tmp_path, "are in the split 'test'", "of 30 readable ones", "test_share=0", split="test", test_share=0.0)


def test_folders_train_and_test_are_the_splits(tmp_path):
    write(tmp_path, "train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "test/cat/3.png", "test/dog/3.png")
    assert both(tmp_path) == [["cat/1.png", "cat/2.png", "dog/1.png"], ["cat/3.png", "dog/3.png"]]
    assert opened(tmp_path).facts["held_out"] == "a folder of its own"


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation", "held_out"])
def test_the_test_folder_may_have_one_of_several_names(tmp_path, name):
    write(tmp_path, "train/1.png", f"{name}/2.png")
    own = {"test_split": name} if name == "held_out" else {}
    assert both(tmp_path, **own) == [["1.png"], ["2.png"]]


def test_the_training_folder_may_have_another_name(tmp_path):
    """So may a class be called train."""
    write(tmp_path, "train/1.png", "plane/1.png")
    refusal(tmp_path, "where 'train' is a class, set config.data.train_split to another name", split="test")
    source = opened(tmp_path, train_split="training", test_share=0.0)
    assert source.class_names == ("plane", "train")


def test_both_splits_number_the_classes_alike(tmp_path):
    """A test folder may lack some; by itself it would call wild number 1."""
    write(tmp_path, "train/cat/1.png", "train/dog/1.png", "train/wild/1.png", "test/cat/1.png", "test/wild/1.png")
    test = opened(tmp_path, "test")
    assert (test.class_names, test.spec.num_classes) == (("cat", "dog", "wild"), 3)
    assert test.labels().tolist() == [0, 2]
    assert class_counts(test) == [1, 0, 1]


def test_both_splits_number_the_classes_alike_however_their_letters_are_encoded(tmp_path):
    write(tmp_path, "train/a/1.png", "train/\u00e9/1.png", "test/a/1.png", "test/e\u0301/1.png")
    test = opened(tmp_path, "test")
    assert (test.class_names, test.labels().tolist()) == (("a", "é"), [0, 1])


@pytest.mark.parametrize(
    ("names", "found", "expected"),
    [
        (("train/cat/1.png", "train/dog/1.png", "test/cow/1.png", "test/cat/1.png"), "cow", "cat, dog"),
        (("train/cat/1.png", "train/dog/1.png", "test/1.png"), "(none)", "cat, dog"),
        (("train/1.png", "test/cat/1.png", "test/dog/1.png"), "cat, dog", "(none)"),
    ],
)
def test_a_test_folder_of_other_classes(tmp_path, names, found, expected):
    write(tmp_path, *names)
    refusal(
        tmp_path, f"has the classes {found}, expected some of", f"pictures' {expected}: make the same", split="test"
    )


def test_splits_of_one_class_need_no_common_name(tmp_path):
    write(tmp_path, "train/1.png", "test/all/1.png")
    assert (opened(tmp_path, "test").class_names, opened(tmp_path, "test").labels().tolist()) == ((), [0])


@pytest.mark.parametrize(("linked", "split"), [("train", "train"), ("test", "test"), ("val", "test")])
def test_a_split_that_is_a_link_out_of_the_folder(tmp_path, linked, split):
    write(tmp_path / "outside", "1.png")
    root = write(tmp_path / "root", "train/1.png", "test/1.png")
    shutil.rmtree(root / split)
    (root / linked).symlink_to(tmp_path / "outside")
    refusal(root, f"{linked} leads out of the folder", "copy the pictures into it", split=split)


def test_a_split_whose_name_leads_out_of_the_folder(tmp_path):
    write(tmp_path, "root/1.png", "outside/1.png")
    for name in ("../outside", str(tmp_path / "outside")):
        refusal(tmp_path / "root", "leads out of the folder", train_split=name)


# Files that cannot be used


def messy(folder):
    write(folder, *(f"cat/{i}.png" for i in range(8)), *(f"dog/{i}.png" for i in range(8)))
    write(folder, "dog/small.png", size=(40, 3))
    (folder / "cat" / "text.jpg").write_text("not a picture")
    data = (folder / "cat" / "0.png").read_bytes()
    (folder / "cat" / "cut.png").write_bytes(data[:-30])
    return folder


def test_what_is_skipped_is_said_once_and_by_name(tmp_path, capsys):
    messy(tmp_path)
    kept, held = both(tmp_path, shape=(16, 16, 3))
    assert len(kept) + len(held) == 16
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"skipped 3 in {tmp_path.name} (config.data.strict refuses them):"
    assert sorted(line.split(":")[0].strip() for line in lines[1:]) == ["cat/cut.png", "cat/text.jpg", "dog/small.png"]
    assert "  dog/small.png: tiny: 3 pixels, expected 4 at least" in lines
    (tmp_path / "cat" / "more.jpg").write_text("not a picture")
    opened(tmp_path)
    assert "cat/more.jpg: not a picture" in capsys.readouterr().err


def test_strict_refuses_what_would_be_skipped(tmp_path):
    messy(tmp_path)
    strict = {"strict": True, "shape": (16, 16, 3)}
    named = ("cat/cut.png: damaged", "cat/text.jpg: not a picture", "dog/small.png: tiny: 3 pixels")
    for split in ("train", "test"):
        refusal(
            tmp_path,
            "has 3 files that cannot be used",
            *named,
            "or set config.data.strict=False",
            split=split,
            **strict,
        )
    for line in named:
        (tmp_path / line.split(":")[0]).unlink()
    assert sum(map(len, both(tmp_path, **strict))) == 16


@pytest.mark.parametrize(("height", "width", "smallest"), [(32, 32, 8), (33, 40, 9), (16, 64, 4), (4, 4, 1)])
def test_pictures_are_tiny_below_a_quarter_of_the_size(tmp_path, height, width, smallest):
    for side in range(1, 12):
        Image.new("L", (200, side)).save(tmp_path / f"{side:02d}.png")
    source = opened(tmp_path, shape=(height, width, 1), test_share=0.0)
    assert names_of(source) == [f"{side:02d}.png" for side in range(smallest, 12)]
    assert ENLARGED * smallest >= min(height, width) > ENLARGED * (smallest - 1)


def test_only_tiny_pictures(tmp_path):
    write(tmp_path, "1.png", "2.png")
    refusal(tmp_path, "of 2 readable ones 2 are too small for config.data.shape", shape=(64, 64, 3))


def test_a_picture_that_is_damaged_after_the_scan(tmp_path):
    source = opened(write(tmp_path, "1.png", "2.png"), test_share=0.0)
    (tmp_path / "2.png").write_text("")
    assert source[0]["image"].shape == (4, 4, 3)
    for reason in ("not a picture that Pillow can read", "cannot be read: No such file or directory"):
        with pytest.raises(UserError) as caught:
            source[1]
        one_line(caught, "2.png", reason, "It could be read when the folder was scanned")
        (tmp_path / "2.png").unlink(missing_ok=True)


# Refusals


def test_no_folder_at_all(tmp_path):
    with pytest.raises(UserError) as caught:
        open_source("train", settings_of("image_folder"))
    one_line(caught, "set config.data.path", "to a folder with a sub-folder for each class, or with pictures")
    for path in (tmp_path / "none", tmp_path / "two\nlines"):
        refusal(path, f"config.data.path is {printable(str(path))}, which is not a folder")
    with pytest.raises(UserError) as caught:
        open_source("train", settings_of("image_folder", name="afhq"))
    one_line(caught, "stargan-v2")


def test_an_empty_folder(tmp_path):
    refusal(tmp_path, "no pictures in", "which is empty")
    refusal(tmp_path, "no pictures in", "which is empty", strict=True)


def test_classes_that_differ_by_case(tmp_path):
    write(tmp_path, "Cat/1.png", "cat/1.png")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system takes them for one")
    refusal(tmp_path, "'Cat' and 'cat'", "on other systems they are one")


def test_a_data_set_smaller_than_a_batch(tmp_path):
    source = opened(write(tmp_path, *(f"{i}.png" for i in range(5))), test_share=0.0)
    with pytest.raises(UserError) as caught:
        next(train_batches(source, 6, seed=0))
    one_line(caught, "batch_size 6 is larger than the data set of 5 images: lower config.train.batch_size")
    batch = next(train_batches(source, 5, seed=0))
    assert sorted(batch["image"][:, 0, 0, 0].tolist()) == [0, 1, 2, 3, 4]


def test_a_folder_without_permission():
    with reachable_folder() as folder:
        opened(write(folder, "1.png"), test_share=0.0)  # as root: imports what decoders need
        folder.chmod(0)
        with without_rights():
            refusal(folder, "no permission to read it")


def test_training_draws_every_picture_once_an_epoch(tmp_path):
    source = opened(write(tmp_path, *(f"{i}.png" for i in range(12))), test_share=0.0)
    batches = itertools.islice(train_batches(source, 4, seed=1), 3)
    assert sorted(np.concatenate([b["image"][:, 0, 0, 0] for b in batches]).tolist()) == list(range(12))


# Pictures given to --mode=translate


def test_pictures_are_cropped_in_the_middle_and_resized(tmp_path):
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = (200, 100, 50)  # the centered square is of one color
    Image.fromarray(wide).save(tmp_path / "b.png")
    Image.fromarray(np.full((20, 20), 77, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    write(tmp_path, "folder/c.png", "._a.png")
    names, pictures = read_pictures(str(tmp_path), (16, 16, 3))
    assert names == ("a.png", "b.png")
    assert pictures.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(pictures[0], 77)
    np.testing.assert_array_equal(pictures[1], np.broadcast_to([200, 100, 50], (16, 16, 3)))
    np.testing.assert_array_equal(read_pictures(str(tmp_path), (16, 16, 1))[1][:1], 77 * np.ones((1, 16, 16, 1)))
    fit = read_pictures(str(tmp_path), (16, 16, 3), framing="fit")[1][1]
    np.testing.assert_array_equal(fit, read_picture(tmp_path / "b.png", (16, 16, 3), "fit"))


def test_pictures_that_are_not(tmp_path):
    def refuses(folder, *parts):
        with pytest.raises(UserError) as caught:
            read_pictures(str(folder), (8, 8, 3))
        one_line(caught, *parts)

    refuses(tmp_path / "no\nne", r"no\nne is not a folder")
    refuses(tmp_path, "no pictures in")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but then nothing")
    refuses(tmp_path, "broken.png: not a picture", "Repair or remove it")
    write(tmp_path / "outside", "1.png")
    (tmp_path / "broken.png").unlink()
    (tmp_path / "link.png").symlink_to(tmp_path / "outside" / "1.png")
    refuses(tmp_path, "link.png: a link; links are not followed")


# Real pictures


def test_real_photographs_in_three_classes():
    folder = shared("data", "afhq_samples")
    files = {c: sorted(p.name for p in (folder / c).iterdir()) for c in ("cat", "dog", "wild")}
    train, test = (opened(folder, split, shape=(32, 32, 3), test_share=0.2) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("cat", "dog", "wild")
    counts = np.add(class_counts(train), class_counts(test))
    assert counts.tolist() == [len(files[c]) for c in ("cat", "dog", "wild")]
    assert sorted(names_of(train) + names_of(test)) == [f"{c}/{n}" for c in sorted(files) for n in files[c]]
    for i in (0, len(test) - 1):
        with Image.open(folder / names_of(test)[i]) as picture:
            wanted = np.asarray(picture.convert("RGB").resize((32, 32), Image.Resampling.LANCZOS))
        np.testing.assert_array_equal(test[i]["image"], wanted)
        assert names_of(test)[i].split("/")[0] == test.class_names[test[i]["label"]]


def grey(path, size=16):
    """A picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (size, 7, 9)).save(path)


def test_folders_of_the_splits_in_any_spelling(tmp_path):
    for split in ("Training", "VAL"):
        for name in ("cat", "dog"):
            for i in range(3):
                grey(tmp_path / split / name / f"{i}.png")
    settings = settings_of("image_folder", path=str(tmp_path))
    train, test = open_source("train", settings), open_source("test", settings)
    assert (len(train), len(test), train.class_names) == (6, 6, ("cat", "dog"))


def test_a_class_called_train_beside_others_is_not_a_split(tmp_path):
    for name in ("train", "car", "plane"):
        for i in range(12):
            grey(tmp_path / name / f"{i}.png")
    settings = settings_of("image_folder", path=str(tmp_path))
    for split in ("train", "test"):
        with pytest.raises(
            UserError, match="'train' beside car, plane, but none called 'test'.*set config.data.train_split"
        ):
            open_source(split, settings)
    other = settings_of("image_folder", path=str(tmp_path), train_split="fit")
    assert open_source("train", other).class_names == ("car", "plane", "train")


def test_a_folder_train_alone_has_pictures_held_out_of_it(tmp_path):
    for i in range(60):
        grey(tmp_path / "train" / "cat" / f"{i}.png")
        grey(tmp_path / "train" / "dog" / f"{i}.png")
    settings = settings_of("image_folder", path=str(tmp_path))
    train, test = open_source("train", settings), open_source("test", settings)
    assert len(train) + len(test) == 120
    assert 0 < len(test) < 40
    assert train.class_names == test.class_names == ("cat", "dog")


def test_what_stands_beside_the_splits_is_named(tmp_path, capsys):
    for folder in ("train/cat", "train/dog", "test/cat", "extra/cat"):
        for i in range(2):
            grey(tmp_path / folder / f"{i}.png")
    settings = settings_of("image_folder", path=str(tmp_path))
    assert len(open_source("train", settings)) == 4
    assert "extra: beside the folders of the splits, so not read" in capsys.readouterr().err
    with pytest.raises(UserError, match="extra: beside the folders of the splits"):
        open_source("test", dataclasses.replace(settings, strict=True))


def test_a_class_of_tiny_pictures_alone_is_none(tmp_path):
    for name, size in (("a", 40), ("b", 4), ("c", 40)):
        for i in range(10):
            grey(tmp_path / name / f"{i}.png", size)
    source = open_source("train", settings_of("image_folder", path=str(tmp_path), shape=(32, 32, 3), test_share=0.0))
    assert (source.class_names, class_counts(source)) == (("a", "c"), [10, 10])
