"""Scans of folders: what is found, what is named as unusable, what is kept, and that nothing outside is touched."""

import builtins
import hashlib
import io
import os
import pathlib
import pickle
import tempfile
import unicodedata

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scoreflow_jax import files
from scoreflow_jax.data import folder_scan, pictures
from scoreflow_jax.data.folder_scan import (
    LINK,
    OTHER,
    SKETCH,
    Names,
    printable,
    refuse_skipped,
    scan_folder,
    warning_of,
)
from scoreflow_jax.errors import UserError
from tests.data.folders import one_line, reachable_folder, without_rights, write


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """An empty one for each test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path):
    """Beside whatever a test puts outside of it."""
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


def same(a, b):
    """Two scans found the same, however much each had to read."""
    assert list(a.names) == list(b.names)
    for field in ("labels", "sides", "hashes"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
        assert getattr(a, field).dtype == getattr(b, field).dtype
    for field in ("root", "sketch", "class_names", "skipped"):
        assert getattr(a, field) == getattr(b, field)


def hashed(text):
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def tree(folder):
    """Everything in a folder, with its content and time of change."""
    return {
        path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() and not path.is_symlink() else b"")
        for path in sorted(pathlib.Path(folder).rglob("*"))
    }


# Classes and files


def test_sub_folders_are_the_classes_in_order_of_their_names(folder):
    """Whatever the order in which they were made; deeper folders belong to the one at the top."""
    write(folder, "wild/1.png", "dog/b.jpg", "dog/a.PNG", "cat/deep/er/1.bmp", "cat/2.webp", "Zebra/1.gif")
    scan = scan_folder(folder)
    assert scan.class_names == ("Zebra", "cat", "dog", "wild")
    assert list(scan.names) == [
        "Zebra/1.gif",
        "cat/2.webp",
        "cat/deep/er/1.bmp",
        "dog/a.PNG",
        "dog/b.jpg",
        "wild/1.png",
    ]
    assert scan.labels.tolist() == [0, 1, 1, 2, 2, 3]
    assert (scan.root, scan.read, scan.skipped) == (folder.resolve(), 6, {})


def test_names_that_begin_alike_are_different_classes(folder):
    write(folder, "cat/1.png", "cat-big/1.png", "cat.png/1.png", "catalogue/1.png")
    scan = scan_folder(folder)
    assert scan.class_names == ("cat", "cat-big", "cat.png", "catalogue")
    assert [name.split("/")[0] for name in scan.names] == list(scan.class_names)


def test_pictures_without_sub_folders_have_no_classes(folder):
    scan = scan_folder(write(folder, "b.png", "a.png", "c.jpg"))
    assert (list(scan.names), scan.class_names, scan.labels.tolist()) == (["a.png", "b.png", "c.jpg"], (), [0, 0, 0])


def test_one_sub_folder_is_one_class(folder):
    scan = scan_folder(write(folder, "all/b.png", "all/a.png"))
    assert (scan.class_names, scan.labels.tolist()) == (("all",), [0, 0])


def test_pictures_beside_class_folders_are_named(folder):
    scan = scan_folder(write(folder, "cat/1.png", "loose.png"))
    assert (list(scan.names), scan.skipped) == (["cat/1.png"], {"loose.png": "not in a class folder, as others are"})


def test_hidden_files_and_folders_are_no_pictures_and_no_news(folder):
    write(folder, "cat/1.png", "cat/._1.png", ".thumbnails/1.png", "__MACOSX/1.png", "cat/__pycache__/1.png")
    scan = scan_folder(folder)
    assert (list(scan.names), scan.class_names, scan.skipped) == (["cat/1.png"], ("cat",), {})


def test_the_shorter_side_as_it_will_be_read(folder):
    write(folder, "a.png", size=(30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (5, 9)).save(folder / "b.png", exif=exif)
    assert scan_folder(folder).sides.tolist() == [20, 5]


def test_a_class_without_a_readable_picture_is_none(folder):
    write(folder, "cat/1.png", "wild/1.png")
    (folder / "dog").mkdir()
    (folder / "dog" / "1.png").write_text("woof")
    (folder / "empty").mkdir()
    scan = scan_folder(folder)
    assert (scan.class_names, scan.labels.tolist()) == (("cat", "wild"), [0, 1])
    assert scan.skipped == {"dog/1.png": "not a picture that Pillow can read", "empty": "an empty folder"}


def test_everything_that_cannot_be_used_is_named_with_its_reason(folder):
    write(folder, "cat/good.png")
    data = (folder / "cat" / "good.png").read_bytes()
    (folder / "cat" / "truncated.jpg").write_bytes(data[:-30])
    (folder / "cat" / "text.jpg").write_text("not a picture")
    (folder / "cat" / "empty.png").write_bytes(b"")
    (folder / "cat" / "drawing.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    (folder / "notes.txt").write_text("not a picture")
    Image.new("F", (4, 4)).save(folder / "cat" / "numbers.tif")
    os.mkfifo(folder / "cat" / "pipe.jpg")
    (folder / "cat" / "link.png").symlink_to("good.png")
    scan = scan_folder(folder)
    assert list(scan.names) == ["cat/good.png"]
    assert scan.skipped == {
        "cat/drawing.eps": OTHER,
        "cat/empty.png": "not a picture that Pillow can read",
        "cat/link.png": LINK,
        "cat/numbers.tif": "its values are floating-point numbers, whose range a picture does not say",
        "cat/pipe.jpg": "not a file",
        "cat/text.jpg": "not a picture that Pillow can read",
        "cat/truncated.jpg": scan.skipped["cat/truncated.jpg"],
        "notes.txt": OTHER,
    }
    assert scan.skipped["cat/truncated.jpg"].startswith("damaged: ")
    assert list(scan.skipped) == sorted(scan.skipped)


# Nothing outside of the folder


def test_links_are_named_and_never_followed(folder, tmp_path, cache, monkeypatch):
    """Where they lead are pictures that could be read."""
    write(tmp_path, "outside/1.png", "outside.png")
    write(folder, "cat/1.png")
    (folder / "cat" / "file.png").symlink_to(tmp_path / "outside.png")
    (folder / "cat" / "folder").symlink_to(tmp_path / "outside")
    (folder / "dog").symlink_to(tmp_path / "outside")
    (folder / "cat" / "loop").symlink_to("..")
    (folder / "cat" / "itself.png").symlink_to("itself.png")
    (folder / "cat" / "nowhere.png").symlink_to("nothing.png")
    touched, before = [], tree(tmp_path)

    def seen(real):
        return lambda path, *a, **k: (touched.append(path), real(path, *a, **k))[1]

    with monkeypatch.context() as patch:
        for module, name in ((os, "open"), (os, "scandir"), (os, "listdir"), (builtins, "open")):
            patch.setattr(module, name, seen(getattr(module, name)))
        scan = scan_folder(folder)
    assert (list(scan.names), scan.class_names) == (["cat/1.png"], ("cat",))
    links = ("cat/file.png", "cat/folder", "cat/itself.png", "cat/loop", "cat/nowhere.png", "dog")
    assert scan.skipped == dict.fromkeys(links, LINK)
    assert folder / "cat" / "1.png" in touched
    for path in touched:
        if not isinstance(path, int):  # a file that is open already
            real = pathlib.Path(path).resolve()
            assert real.is_relative_to(folder.resolve()) or real.is_relative_to(cache)
    assert tree(tmp_path) == before


def test_hard_links_and_a_link_to_the_folder_itself_are_the_users_own_words(folder, tmp_path):
    write(tmp_path, "outside.png")
    os.link(tmp_path / "outside.png", folder / "a.png")
    (tmp_path / "link").symlink_to(folder)
    assert list(scan_folder(tmp_path / "link").names) == ["a.png"]
    assert scan_folder(tmp_path / "link").root == folder.resolve()


# Permissions


def test_what_may_not_be_read_is_named_and_looked_at_again():
    with reachable_folder() as folder:
        write(folder, "cat/1.png", "cat/2.png", "dog/1.png", "wild/1.png", "pets/1.png")
        scan_folder(folder)  # as root: modules that decoders need are imported from places closed to others
        for name, mode in (("cat/2.png", 0), ("dog", 0), ("wild", 0o444)):  # the last may be listed, not entered
            (folder / name).chmod(mode)
        with without_rights(), pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(folder / ".cache"))
            scan = scan_folder(folder)
            assert list(scan.names) == ["cat/1.png", "pets/1.png"]
            assert scan.class_names == ("cat", "pets")
            assert scan.skipped == dict.fromkeys(("cat/2.png", "dog/", "wild/1.png"), "no permission to read it")
            assert scan_folder(folder).read == 1  # cat/2.png
        for name in ("dog", "wild", "cat/2.png"):
            (folder / name).chmod(0o755)
        with without_rights(), pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(folder / ".cache"))
            scan = scan_folder(folder)  # none of the files has changed
            assert (len(scan.names), scan.skipped, scan.read) == (5, {}, 3)


def test_a_folder_that_may_not_be_listed():
    with reachable_folder() as folder:
        write(folder, "1.png")
        folder.chmod(0)
        with without_rights(), pytest.raises(UserError) as caught:
            scan_folder(folder)
        one_line(caught, "no pictures in", "the folder itself: no permission to read it")
        folder.chmod(0o755)


def test_a_folder_that_may_not_be_reached():
    with reachable_folder() as folder:
        write(folder, "a/b/1.png")
        (folder / "a").chmod(0)
        with without_rights(), pytest.raises(UserError) as caught:
            scan_folder(folder / "a" / "b")
        one_line(caught, "is not a folder")


def test_a_file_that_vanishes_while_the_folder_is_walked(folder, monkeypatch):
    write(folder, "1.png", "2.png")
    real = folder_scan._kind

    def remove(entry, name):
        if name == "2.png":
            os.unlink(entry.path)
        return real(entry, name)

    monkeypatch.setattr(folder_scan, "_kind", remove)
    scan = scan_folder(folder)
    assert (list(scan.names), scan.skipped) == (["1.png"], {"2.png": "cannot be read: No such file or directory"})


# The cache


def test_a_second_scan_reads_nothing_and_finds_the_same(folder):
    write(folder, "cat/1.png", "dog/1.png", "dog/2.jpg", size=(20, 30))
    (folder / "cat" / "broken.png").write_text("")
    first, second = scan_folder(folder), scan_folder(folder)
    assert (first.read, second.read) == (4, 0)
    same(first, second)
    assert "cat/broken.png" in second.skipped


def test_only_what_changed_is_read_again(folder):
    write(folder, *(f"{i}.png" for i in range(8)))
    assert scan_folder(folder).read == 8
    write(folder, "added.png", size=(9, 12))
    assert scan_folder(folder).read == 1
    Image.new("RGB", (40, 50)).save(folder / "3.png")
    scan = scan_folder(folder)
    assert (scan.read, scan.sides.tolist()) == (1, [8, 8, 8, 40, 8, 8, 8, 8, 9])
    (folder / "3.png").write_text("now no picture")
    scan = scan_folder(folder)
    assert (scan.read, list(scan.skipped)) == (1, ["3.png"])
    (folder / "5.png").unlink()
    scan = scan_folder(folder)
    assert (scan.read, len(scan.names)) == (0, 7)
    (folder / "6.png").rename(folder / "seven.png")
    assert scan_folder(folder).read == 1
    # Of the same size at another time, and of another size at the same time.
    status = (folder / "2.png").stat()
    os.utime(folder / "2.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert scan_folder(folder).read == 1
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes() + b"more")
    os.utime(folder / "2.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert scan_folder(folder).read == 1
    assert scan_folder(folder).read == 0


def test_folders_do_not_share_what_is_known(folder, tmp_path):
    write(folder, "1.png")
    write(tmp_path / "other", "1.png", size=(30, 30))
    assert (scan_folder(folder).read, scan_folder(tmp_path / "other").read) == (1, 1)
    assert (scan_folder(folder).sides.tolist(), scan_folder(tmp_path / "other").sides.tolist()) == ([8], [30])


def lacking(data, name):
    arrays = dict(np.load(io.BytesIO(data)))
    del arrays[name]
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"not an npz",
        lambda data: data[: len(data) // 2],
        lambda data: data[:200] + bytes(100) + data[300:],
        lambda data: pickle.dumps({"keys": []}),
        lambda data: lacking(data, "numbers"),
        lambda data: lacking(data, "reader"),
    ],
    ids=["empty", "text", "truncated", "zeros", "pickle", "older", "newer"],
)
def test_a_damaged_cache_is_as_none(folder, cache, damage):
    write(folder, "cat/1.png", "dog/1.png")
    (folder / "cat" / "broken.png").write_text("")
    first = scan_folder(folder)
    (kept,) = cache.rglob("*.npz")
    kept.write_bytes(damage(kept.read_bytes()))
    again = scan_folder(folder)
    same(first, again)
    assert again.read == 3
    assert scan_folder(folder).read == 0


@pytest.mark.parametrize("home", ["a file", "none", "of nobody"])
def test_without_a_cache_a_process_has_its_own(home, folder, tmp_path, monkeypatch, capsys):
    """A line says so, once; the next process reads all again."""
    (tmp_path / "file").write_text("")
    if home == "a file":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", "/proc/none" if home == "none" else "")
    if home == "of nobody":  # a user id without an entry
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    files._cache.cache_clear()
    write(folder, "1.png")
    assert [scan_folder(folder).read for _ in range(2)] == [1, 0]
    error = capsys.readouterr().err
    assert error.count("no cache in ") == 1
    assert "is made anew each time; XDG_CACHE_HOME names another place" in error
    files._cache.cache_clear()


def test_a_cache_without_permission_costs_time_only(capsys):
    with reachable_folder() as folder, pytest.MonkeyPatch.context() as patch:
        write(folder / "pictures", "1.png")
        scan_folder(folder / "pictures")  # see above
        (folder / "cache").mkdir(mode=0o555)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        with without_rights():
            assert [scan_folder(folder / "pictures").read for _ in range(2)] == [1, 0]
        assert "Permission denied" in capsys.readouterr().err


def test_an_interrupted_scan_goes_on_where_it_was(folder, monkeypatch):
    write(folder, *(f"{i:02d}.png" for i in range(10)))
    monkeypatch.setattr(folder_scan, "_CHUNK", 4)
    real = folder_scan.check_picture

    def interrupt(path):
        if path.name == "08.png":
            raise KeyboardInterrupt
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(folder_scan, "check_picture", interrupt)
        with pytest.raises(KeyboardInterrupt):
            scan_folder(folder)
    assert scan_folder(folder).read == 2


def test_what_lies_in_the_machine_is_tried_again(folder, monkeypatch):
    write(folder, "1.png", "2.png")

    def fail(path):
        raise pictures.UnreadablePicture("cannot be read: Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(folder_scan, "check_picture", fail)
        with pytest.raises(UserError, match="Input/output error"):
            scan_folder(folder)
    assert (scan_folder(folder).read, scan_folder(folder).skipped) == (2, {})


def test_another_pillow_or_limit_is_asked_again_about_what_was_refused(folder, monkeypatch):
    write(folder, "1.png")
    write(folder, "2.png", size=(50, 50))
    (folder / "3.png").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        scan = scan_folder(folder)
        assert (list(scan.names), scan_folder(folder).read) == (["1.png"], 0)
        assert "decompression bomb" in scan.skipped["2.png"]
    scan = scan_folder(folder)
    assert (list(scan.names), scan.read) == (["1.png", "2.png"], 2)
    monkeypatch.setattr(PIL, "__version__", "99")
    assert scan_folder(folder).read == 1


def test_a_bar_shows_how_many_files_have_to_be_read(folder, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, what, total, unit):
            bars.append([what, total, unit, 0])

        __enter__ = lambda self: self
        __exit__ = lambda self, *_: None

        def update(self, count):
            bars[-1][3] += count

    monkeypatch.setattr(folder_scan, "progress", Bar)
    monkeypatch.setattr(folder_scan, "_CHUNK", 2)
    write(folder, *(f"{i}.png" for i in range(5)))
    scan_folder(folder)
    assert bars == [["scanning pictures", 5, " files", 5]]
    scan_folder(folder)  # without one
    write(folder, "new.png")
    scan_folder(folder)
    assert bars[1:] == [["scanning pictures", 1, " files", 1]]


# Names


NAMES = {
    "chinese": "猫/照片一.png",
    "arabic": "قطة/صورة.png",
    "cyrillic": "кошка/фото.png",
    "hindi": "बिल्ली/चित्र.png",
    "emoji": "🐈‍⬛/👩‍👩‍👧.png",
    "combining": "kātė/é.png",
    "spaces": " a b / c  d .png",
    "shell": "$(rm -rf x)/'\"`;&|*?.png",
    "percent": "100%/%s{0}\\n.png",
    "line break": "two\nlines/a\r\nb.png",
    "control": "bell\a/\x1b[2J.png",
    "right to left override": "a\u202eb/gnp.\u202e1.png",
    "broken encoding": os.fsdecode(b"\xff\xfe/\x80\xc3.png"),
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_names_in_any_script(folder, name):
    """They are read, and those of what cannot be used can be shown on a terminal."""
    try:
        write(folder, name, size=(8, 6))
    except OSError:
        pytest.skip("this file system does not take that name")
    broken = folder / (name[:-4] + "_broken.png")
    broken.write_text("")
    first, scan = scan_folder(folder), scan_folder(folder)
    same(first, scan)
    assert (list(scan.names), scan.sides.tolist(), scan.read) == ([name], [6], 0)
    assert Image.open(scan.root / scan.names[0]).size == (8, 6)
    assert list(scan.skipped) == [printable(name[:-4] + "_broken.png")]
    assert list(scan.skipped)[0].isprintable()
    for line in warning_of(scan.skipped, folder / name.split("/")[0]).splitlines():
        assert line.isprintable()
        line.encode()
    with pytest.raises(UserError) as caught:
        refuse_skipped(scan.skipped, folder)
    one_line(caught, printable(name[:-4] + "_broken.png"))


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"]), max_size=12), max_size=20), st.data())
@settings(deadline=None)
def test_packed_names_are_a_list_of_names(names, data):
    packed = Names(names)
    assert (len(packed), list(packed)) == (len(names), names)
    assert list(pickle.loads(pickle.dumps(packed))) == names
    for i in range(-len(names), len(names)):
        assert packed[i] == names[i]
    for i in (len(names), -len(names) - 1):
        with pytest.raises(IndexError):
            packed[i]
    chosen = data.draw(st.slices(len(names)))
    assert packed[chosen] == names[chosen]


def test_packed_names_are_small():
    names = [f"class_{i % 100}/{i:07d}.png" for i in range(10_000)]
    assert len(pickle.dumps(Names(names))) < sum(map(len, names)) + 8 * len(names) + 1000


@given(st.text())
def test_whatever_is_printed_is_printable(name):
    shown = printable(name)
    assert shown.isprintable()
    assert shown == name or not name.isprintable()
    shown.encode()


def test_hashes_are_of_the_names_alone(folder, tmp_path):
    """Fixed for ever: another hash would mix what was trained on with what was held out."""
    write(folder, "cat/1.png", "dog/ü.png")
    scan = scan_folder(folder)
    assert scan.hashes.tolist() == [hashed("cat/1.png"), hashed("dog/ü.png")]
    assert hashed("cat/1.png") == 16482809177075911948
    write(tmp_path / "moved" / "elsewhere", "cat/1.png", "dog/ü.png", "dog/more.png", size=(30, 20))
    assert scan_folder(tmp_path / "moved" / "elsewhere").hashes[[0, 2]].tolist() == scan.hashes.tolist()


def test_two_spellings_of_a_letter_are_one_name(folder, tmp_path):
    """macOS used to take names apart (NFD), others do not (NFC): a copied folder must be split the same."""
    names = ["chaton/é.png", "chaton/z.png", "élan/å.png"]
    other = tmp_path / "other"
    composed = scan_folder(write(folder, *names))
    apart = scan_folder(write(other, *(unicodedata.normalize("NFD", name) for name in names)))
    assert list(composed.names) != list(apart.names)
    assert [unicodedata.normalize("NFC", name) for name in apart.names] == list(composed.names)
    np.testing.assert_array_equal(composed.hashes, apart.hashes)
    assert (composed.class_names, composed.sketch) == (apart.class_names, apart.sketch)


@pytest.mark.parametrize("reverse", [False, True])
def test_both_spellings_in_one_folder_have_an_order(folder, reverse):
    names = sorted(["e\u0301.png", "\u00e9.png"], reverse=reverse)
    scan = scan_folder(write(folder, *names))
    if len(scan.names) == 1:
        pytest.skip("this file system takes them for one name")
    assert list(scan.names) == sorted(names)


@pytest.mark.parametrize(
    "names", [("Cat", "cat"), ("straße", "STRASSE"), ("é", "e\u0301"), ("É", "e\u0301"), ("Кошка", "кошка")]
)
def test_classes_that_another_system_would_take_for_one(folder, names):
    write(folder, *(f"{name}/1.png" for name in names), "dog/1.png")
    if len(list(folder.iterdir())) < 3:
        pytest.skip("this file system is such a system")
    with pytest.raises(UserError) as caught:
        scan_folder(folder)
    one_line(caught, *map(repr, names), "Rename one, or put their pictures together")


# Refusals


def test_an_empty_folder(folder):
    with pytest.raises(UserError) as caught:
        scan_folder(folder)
    one_line(
        caught, "no pictures in", "which is empty: expected a folder of pictures, or of one sub-folder for each class"
    )


def test_a_folder_without_a_usable_picture(folder):
    for i in range(5):
        (folder / f"{i}.png").write_text("")
    with pytest.raises(UserError) as caught:
        scan_folder(folder)
    one_line(caught, "(0.png: not a picture that Pillow can read; 1.png", "2.png", "; and 2 more)")
    assert "3.png" not in str(caught.value)


@pytest.mark.parametrize("name", ["none", "file.png", "two\nlines", "x" * 300, "nul\0"])
def test_no_folder(folder, name):
    write(folder, "file.png")
    with pytest.raises(UserError) as caught:
        scan_folder(str(folder / name))
    one_line(caught, printable(name), "is not a folder; expected a folder of pictures")


def test_the_strict_refusal_names_and_advises(folder):
    refuse_skipped({}, folder)
    with pytest.raises(UserError) as caught:
        refuse_skipped({f"{i}.png": "damaged" for i in range(5)}, folder)
    one_line(
        caught,
        "has 5 files that cannot be used (",
        "0.png: damaged; 1.png: damaged; 2.png: damaged; and 2 more",
        "config.data.strict=False",
    )


def test_a_warning_names_every_file_or_where_they_stand(folder, cache):
    skipped = {f"猫{i}.png": "damaged" for i in range(20)}
    lines = warning_of(skipped, folder).splitlines()
    assert lines[0] == "skipped 20 in pictures (config.data.strict refuses them):"
    assert lines[1:] == [f"  猫{i}.png: damaged" for i in range(20)]
    assert list(cache.rglob("*.txt")) == []
    skipped["more.png"] = "tiny"
    lines = warning_of(skipped, folder).splitlines()
    (path,) = cache.rglob("*.txt")
    assert lines[1:] == [*(f"  猫{i}.png: damaged" for i in range(20)), f"  and 1 more: see {path}"]
    assert path.read_text("utf-8").splitlines() == [f"{name}: {reason}" for name, reason in skipped.items()]


def test_a_warning_that_cannot_be_written_down_is_still_given(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    last = warning_of({f"{i}.png": "damaged" for i in range(30)}, folder).splitlines()[-1]
    assert last.startswith("  and 10 more, which cannot be listed in ")


# Sketches


def test_a_sketch_is_the_smallest_hashes_of_names_and_sizes(folder, tmp_path):
    names = [f"{i}.png" for i in range(40)]
    scan = scan_folder(write(folder, *names))
    every = sorted(hashed(f"{name}|{(folder / name).stat().st_size}") for name in names)
    assert scan.sketch == tuple(f"{h:016x}" for h in every[:SKETCH])
    assert SKETCH == 32
    for name in names:
        os.utime(folder / name, ns=(0, 0))
    folder.rename(tmp_path / "moved")
    assert scan_folder(tmp_path / "moved").sketch == scan.sketch


# Generated folders


_PART = st.text(st.sampled_from("aZ9 ._-é猫ж"), min_size=1, max_size=4).filter(
    lambda s: s.strip(" .") and s[0] not in "._"
)
_KIND = st.sampled_from(["picture", "large", "text", "cut", "link", "other"])


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["", "cat", "dog", "élan", "猫"]), st.sampled_from(["", "deep"]), _PART),
        _KIND,
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_folder_is_sorted_into_pictures_and_reasons(made):
    """Every file is either a picture with the label of its folder, or is named; the second scan agrees without reading."""
    with tempfile.TemporaryDirectory() as outer:
        root = pathlib.Path(outer).resolve() / "root"
        root.mkdir()
        write(outer, "outside.png", size=(77, 77))
        kinds = {}
        for (top, deep, stem), kind in made.items():
            name = "/".join(part for part in (top, deep, stem) if part) + (".txt" if kind == "other" else ".png")
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "link":
                path.symlink_to(pathlib.Path(outer) / "outside.png")
            elif kind == "other":
                path.write_text("")
            else:
                write(root, name, size=(30, 20) if kind == "large" else (8, 8))
                data = path.read_bytes()
                path.write_bytes({"text": b"text", "cut": data[: len(data) // 2]}.get(kind, data))
            kinds[name] = kind
        # A sub-folder with a file of a picture's name makes classes, and leaves out what is beside it.
        classes = any("/" in name for name, kind in kinds.items() if kind not in ("link", "other"))
        good = {n for n, kind in kinds.items() if kind in ("picture", "large") and ("/" in n) == classes}
        if not good:
            with pytest.raises(UserError, match="no pictures in") as caught:
                scan_folder(root)
            one_line(caught)
            return
        scan = scan_folder(root)
        assert set(scan.names) == good
        assert set(scan.skipped) == {printable(name) for name in set(kinds) - good}
        assert list(scan.class_names) == sorted({n.split("/")[0] for n in good} if classes else ())
        for name, label, side in zip(scan.names, scan.labels, scan.sides, strict=True):
            assert side == (20 if kinds[name] == "large" else 8)
            assert label == (scan.class_names.index(name.split("/")[0]) if classes else 0)
        again = scan_folder(root)
        same(scan, again)
        assert again.read == 0
