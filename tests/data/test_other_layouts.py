"""Folders as other tools write them: zips, shards with a dataset.json, classes one level deeper, 12 bits in files of 16."""

import json
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

from scoreflow_jax.data import image_folder, open_source, read_all
from scoreflow_jax.data.image_folder import read_pictures
from scoreflow_jax.errors import UserError
from tests.data.folders import one_line, write
from tests.data.sources import settings_of

SHAPE = (8, 8, 3)


@pytest.fixture(autouse=True)
def _anew(monkeypatch, tmp_path):
    """What was said in another test is said again."""
    monkeypatch.setattr(image_folder, "_warned", set())


def opened(path, split="train", **fields):
    return open_source(split, settings_of("image_folder", path=str(path), shape=SHAPE, **fields))


def zipped(folder, path, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def edm(folder, labels):
    """Shards of ten, as EDM's dataset_tool.py writes them, with these classes or null."""
    names = [f"{i // 10:05d}/img{i:08d}.png" for i in range(25)]
    write(folder, *names)
    listed = None if labels is None else [[name, label] for name, label in zip(names, labels, strict=True)]
    (folder / "dataset.json").write_text(json.dumps({"labels": listed}))
    return names


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_dataset_json_says_the_classes_and_shards_are_none(kind, tmp_path, capsys):
    labels = [i % 3 for i in range(25)]
    names = edm(tmp_path / "data", labels)
    path = tmp_path / "data" if kind == "folder" else zipped(tmp_path / "data", tmp_path / "data.zip")
    train, test = (opened(path, split, test_share=0.3) for split in ("train", "test"))
    assert (train.class_names, train.spec.num_classes) == (("0", "1", "2"), 3)
    assert len(train) + len(test) == 25
    for source in (train, test):
        for i in range(len(source)):
            name = source._names[int(source._chosen[i])]
            number = names.index(name)
            assert source.labels()[i] == labels[number]
            np.testing.assert_array_equal(source[i]["image"][0, 0], (number, 0, 9))
    assert capsys.readouterr().err == ""
    np.testing.assert_array_equal(read_all(pickle.loads(pickle.dumps(test)))["image"], read_all(test)["image"])


def test_labels_of_null_are_no_classes(tmp_path):
    edm(tmp_path, None)
    assert (opened(tmp_path, test_share=0.0).spec.num_classes, len(opened(tmp_path, test_share=0.0))) == (0, 25)


def test_files_missing_on_either_side_of_a_dataset_json_are_named(tmp_path, capsys):
    names = edm(tmp_path, [i % 3 for i in range(25)])
    (tmp_path / names[4]).unlink()
    write(tmp_path, "00002/more.png")
    source = opened(tmp_path, test_share=0.0)
    assert len(source) == 24
    told = capsys.readouterr().err
    assert "skipped 2 in" in told
    assert f"  {names[4]}: not there, but in dataset.json\n" in told
    assert "  00002/more.png: without a label in dataset.json\n" in told


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("{", ("dataset.json is no JSON", "repair it")),
        ('{"labels": {"a.png": 1}}', ("not pairs of a file and a class numbered from 0",)),
        ('{"labels": [["a.png", [0, 1]]]}', ("not pairs of a file and a class",)),
        ('{"labels": [["a.png", -1]]}', ("not pairs of a file and a class",)),
    ],
)
def test_a_dataset_json_that_cannot_be_used_is_refused(content, parts, tmp_path):
    edm(tmp_path, None)
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(UserError) as caught:
        opened(tmp_path)
    one_line(caught, *parts)


def test_a_dataset_json_of_another_program_changes_nothing(tmp_path):
    write(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "dataset.json").write_text('{"name": "pets"}')
    assert opened(tmp_path, test_share=0.0).class_names == ("cat", "dog")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("layout", ["classes", "splits", "loose"])
def test_a_zip_is_read_as_the_folder_in_it(layout, compression, tmp_path, capsys):
    names = [f"{c}/{i}.{e}" for c in ("cat", "dog") for i, e in enumerate(("png", "bmp", "gif") * 4)]
    if layout == "splits":
        names = [f"{split}/{name}" for split in ("train", "test") for name in names]
    if layout == "loose":
        names = [name.replace("/", "-") for name in names]
    folder = write(tmp_path / "pets", *names, "__MACOSX/x.png", ".hidden/x.png")
    (folder / "broken.png" if layout == "loose" else folder / names[0]).write_bytes(b"no picture")
    (folder / "notes.txt").write_text("notes")
    packed = zipped(folder, tmp_path / "pets.zip", compression)
    for split in ("train", "test"):
        ours, theirs = (opened(path, split, test_share=0.5) for path in (packed, folder))
        assert (ours.class_names, ours.spec, len(ours)) == (theirs.class_names, theirs.spec, len(theirs))
        assert ours.facts["sketch"] == theirs.facts["sketch"]
        for field, values in read_all(theirs).items():
            np.testing.assert_array_equal(read_all(ours)[field], values)
    told = capsys.readouterr().err
    assert told.count("notes.txt: by its name not of a format") == (2 if layout != "splits" else 0)
    assert "not a picture that Pillow can read" in told


def test_a_damaged_zip_is_one_line(tmp_path):
    folder = write(tmp_path / "pets", "cat/1.png", "dog/1.png")
    path = zipped(folder, tmp_path / "pets.zip")
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    with pytest.raises(UserError) as caught:
        opened(path)
    one_line(caught, "cannot read the zip", "repair it")
    path.write_bytes(content.replace(b"IDAT", b"IDAX"))  # zip compares the sums of what it reads
    with pytest.raises(UserError) as caught:
        opened(path)
    one_line(caught, "no pictures in", "damaged")


def test_classes_one_level_deeper_are_found_with_a_line(tmp_path, capsys):
    write(tmp_path, *(f"images/{c}/{i}.png" for c in ("cats", "dogs") for i in range(4)))
    assert opened(tmp_path, test_share=0.0).class_names == ("cats", "dogs")
    opened(tmp_path, test_share=0.0)
    assert capsys.readouterr().err.count("holds nothing but images: its sub-folders are the classes, cats, dogs") == 1
    assert opened(zipped(tmp_path, tmp_path.with_suffix(".zip")), test_share=0.0).class_names == ("cats", "dogs")


def test_one_folder_of_pictures_or_of_one_class_stays_a_class(tmp_path):
    assert opened(write(tmp_path / "a", "cats/1.png", "cats/2.png"), test_share=0.0).class_names == ("cats",)
    assert opened(write(tmp_path / "b", "cats/big/1.png", "cats/2.png"), test_share=0.0).class_names == ("cats",)
    assert opened(write(tmp_path / "c", "a/x/1.png", "a/y/1.png", "b/1.png"), test_share=0.0).class_names == ("a", "b")


def twelve_bits(folder, suffix, peak=4095):
    folder.mkdir()
    values = np.linspace(0, peak, 64).reshape(8, 8).astype(np.uint16)
    for i in range(3):
        Image.fromarray(values).save(folder / f"{i}.{suffix}")
    return values


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_twelve_bits_in_sixteen_are_warned_of_and_read_by_their_white(suffix, tmp_path, capsys):
    values = twelve_bits(tmp_path / "scans", suffix)
    dark = opened(tmp_path / "scans", test_share=0.0)[0]["image"]
    assert dark.max() == 16
    told = capsys.readouterr().err
    assert "the 3 pictures of 16 bits in scans go up to 4095, and with white at 65535 they are almost black" in told
    assert "config.data.white_level=4095 if they have 12 bits" in told
    bright = opened(tmp_path / "scans", test_share=0.0, white_level=4095)[0]["image"]
    np.testing.assert_array_equal(bright[..., 0], np.round(values / 4095 * 255))
    assert capsys.readouterr().err == ""
    opened(tmp_path / "scans", test_share=0.0, white_level=1023)
    assert "go up to 4095, and with white at 1023 they are cut off above it" in capsys.readouterr().err


def test_sixteen_bits_that_are_used_are_no_news(tmp_path, capsys):
    twelve_bits(tmp_path / "scans", "png", 40000)
    opened(tmp_path / "scans", test_share=0.0)
    assert capsys.readouterr().err == ""


def test_all_pictures_of_a_folder_come_with_their_names(tmp_path):
    write(tmp_path, *(f"{i:03d}.png" for i in range(120)), "deeper/x.png")
    names, pixels = read_pictures(str(tmp_path), SHAPE)
    assert names == tuple(f"{i:03d}.png" for i in range(120))
    np.testing.assert_array_equal(pixels[:, 0, 0, 0], np.arange(120))


@pytest.mark.parametrize(
    ("beside", "place"),
    [(("masks/cats/1.png", "masks/dogs/1.png"), "images"), (("annotations/a.xml",), "images"), (("images.zip",), "")],
)
def test_classes_deeper_than_others_are_told_of_or_found(beside, place, tmp_path, capsys):
    """Only a folder is descended into that holds nothing else."""
    write(tmp_path, *(f"images/{c}/{i}.png" for c in ("cats", "dogs") for i in range(4)))
    for name in beside:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (write(tmp_path, name) if name.endswith("png") else (tmp_path / name).write_bytes(b"no picture"))
    source, told = opened(tmp_path, test_share=0.0), capsys.readouterr().err
    if place:
        assert f"lie in its sub-folders cats, dogs, which are no classes: config.data.path={tmp_path / place}" in told
        assert "cats" not in source.class_names
    else:
        assert source.class_names == ("cats", "dogs")


def test_classes_some_levels_deeper_are_found(tmp_path, capsys):
    write(tmp_path, *(f"data/images/{c}/{i}.png" for c in ("cats", "dogs") for i in range(4)))
    assert opened(tmp_path, test_share=0.0).class_names == ("cats", "dogs")
    assert "holds nothing but data/images: its sub-folders are the classes, cats, dogs" in capsys.readouterr().err


def test_names_that_lead_out_of_a_zip_are_not_read(tmp_path, capsys):
    """As a path an absolute one would be a file of the user's. Those of the tar-like kind, "./a/1.png", are as any others."""
    outside = write(tmp_path / "outside", "a/9.png", "b/1.png")
    packed = tmp_path / "pets.zip"
    write(tmp_path / "in", "1.png", "2.png", "3.png")
    with zipfile.ZipFile(packed, "w") as archive:
        for number, name in ((1, "./a/1.png"), (2, "b/./2.png"), (3, f"{outside}/a/9.png"), (3, "../outside/a/9.png")):
            archive.writestr(name, (tmp_path / "in" / f"{number}.png").read_bytes())
    source = opened(packed, test_share=0.0)
    assert source.class_names == ("a", "b")
    assert [source[i]["image"][0, 0, 0] for i in range(2)] == [0, 1]
    told = capsys.readouterr().err
    assert "skipped 2 in" in told
    assert "  ../outside/a/9.png: leads out of the zip\n" in told
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as archive:
        archive.writestr("1.png", (tmp_path / "in" / "1.png").read_bytes())
        archive.writestr(f"{outside}/a/9.png", (tmp_path / "in" / "2.png").read_bytes())
    assert len(opened(tmp_path / "flat.zip", test_share=0.0)) == 1
