"""What a folder of pictures, or a zip of one, holds: classes, files, and by name everything in it that cannot be used.

Every picture is read to its end once, since a truncated one shows nowhere else, and what was found is kept in the cache under the
file's name, size and time of change; so a second scan reads only what is new: in the user's cache,
since folders may be read-only and are not ours. Links are not followed: nothing outside the
folder is ever read, and no loop is walked.
"""

import dataclasses
import hashlib
import os
import pathlib
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, overload

import numpy as np
import PIL.Image
from jaxtyping import Int32, UInt64

from scoreflow_jax.data import archives, dataset_json
from scoreflow_jax.data.base import SKETCH
from scoreflow_jax.data.pictures import PASSING, UnreadablePicture, check_picture, printable, suffixes, why_not_read
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.files import cache_dir, cache_lasts, save_arrays, whole_file
from scoreflow_jax.progress import progress
from scoreflow_jax.sums import read_arrays
from scoreflow_jax.user_paths import user_path

_VERSION = 2  # of what the cache holds
_CHUNK = 256  # files given to the threads at a time
_NAMED = 20  # skipped files in a warning; all of them stand in a file
_EXPECTED = "a folder of pictures, or of one sub-folder for each class"

NOT_OURS = ("__MACOSX", "__pycache__")
"""Folders that archives and Python leave behind."""

LINK = "a link; links are not followed, since nothing outside the folder is read. Copy the file, or make a hard link"
OTHER = "by its name not of a format that Pillow reads"


class Names(Sequence[str]):
    """Many file names as one block of bytes: a list of a million strings would be copied into every worker process."""

    def __init__(self, names: Sequence[str]) -> None:
        """Packs them."""
        encoded = [os.fsencode(name) for name in names]
        self._block = b"".join(encoded)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        """How many."""
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """One name, or a list of some."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        first = int(self._ends[place - 1]) if place else 0
        return os.fsdecode(self._block[first : int(self._ends[place])])


@dataclasses.dataclass(frozen=True)
class Scan:
    """What was found.

    Attributes:
        root: the folder, without links.
        names: of the readable pictures, relative to it, in order of class and name.
        labels: their classes.
        sides: the shorter side of each, in pixels.
        peaks: the largest value of each that has 16 bits, 0 of the others.
        hashes: of each one's name: a number that changes with nothing else, from which splits are made.
        sketch: the smallest hashes of names and sizes together. Two folders' sketches have in common what the folders have.
        class_names: of the sub-folders with pictures in them; empty where there are none.
        skipped: reasons by printable name.
        read: how many files had to be read, the others being known.
    """

    root: pathlib.Path
    names: Names
    labels: Int32[np.ndarray, " files"]
    sides: Int32[np.ndarray, " files"]
    peaks: Int32[np.ndarray, " files"]
    hashes: UInt64[np.ndarray, " files"]
    sketch: tuple[str, ...]
    class_names: tuple[str, ...]
    skipped: dict[str, str]
    read: int


def scan_folder(folder: pathlib.Path | str, *, with_classes: bool = True) -> Scan:
    """Walks a folder, with a bar for what has to be read.

    Args:
        folder: with a sub-folder for each class, or with pictures and no sub-folders; a zip file is a folder too.
        with_classes: whether its sub-folders are classes.

    Raises:
        UserError: no such folder, no picture in it, or two classes that other systems would not tell apart.
    """
    root = user_path(folder)
    if not archives.is_folder(root):
        raise UserError(f"{printable(str(folder))} is not a folder; expected {_EXPECTED}")
    root = root.resolve()
    skipped: dict[str, str] = {}
    found = _files_of_classes(root, skipped, with_classes)
    folders = [f.folder if with_classes else "" for f in found]
    _check_class_names(root, sorted({*folders}))
    sizes, reasons, read = _check(root, found, np.asarray([f.key for f in found], np.uint64))
    skipped.update({printable(f.name): r for f, r in zip(found, reasons, strict=True) if r})
    good = [i for i, reason in enumerate(reasons) if not reason]
    if not good:
        why = f" that can be used ({_first(skipped)})" if skipped else ", which is empty"
        raise UserError(f"no pictures in {printable(str(root))}{why}: expected {_EXPECTED}")
    found, folders = [found[i] for i in good], [folders[i] for i in good]
    number = {name: i for i, name in enumerate(dict.fromkeys(folders))}
    return Scan(
        root=root,
        names=Names([f.name for f in found]),
        labels=np.asarray([number[name] for name in folders], np.int32),
        sides=sizes[good, :2].min(axis=1),
        peaks=sizes[good, 2],
        hashes=np.asarray([_hash(_normal(f.name)) for f in found], np.uint64),
        sketch=tuple(f"{h:016x}" for h in sorted(_hash(f"{_normal(f.name)}|{f.size}") for f in found)[:SKETCH]),
        class_names=tuple(_normal(name) for name in number if name),
        skipped=dict(sorted(skipped.items())),
        read=read,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _File:
    name: str  # relative, with "/"
    size: int
    key: int  # of name, size and time of change

    @property
    def folder(self) -> str:
        """The sub-folder of the root that it is in; "" for the root itself."""
        return self.name.split("/", 1)[0] if "/" in self.name else ""


def _files_of_classes(root: pathlib.Path, skipped: dict[str, str], with_classes: bool) -> list[_File]:
    """Files with a picture's ending in order of class and name, and none outside the classes where there are any."""
    folders: set[str] = set()
    walk = _walk if archives.split_path(root) is None else _walk_archive
    found = list(walk(root, skipped, folders))
    if not with_classes:
        return sorted(found, key=lambda f: (_normal(f.name), f.name))
    named = {printable(f.folder) for f in found} | {name.split("/")[0] for name in skipped}
    skipped.update({name: "an empty folder" for name in map(printable, folders) if name not in named})
    if any(f.folder for f in found):
        skipped.update({printable(f.name): "not in a class folder, as others are" for f in found if not f.folder})
        found = [f for f in found if f.folder]
    return sorted(found, key=lambda f: (_normal(f.folder), _normal(f.name), f.name))


def _walk(root: pathlib.Path, skipped: dict[str, str], folders: set[str]) -> Iterator[_File]:
    """Files with a picture's ending, in no order; what else is there goes to `skipped`, sub-folders of the root to `folders`."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        try:
            entries = list(os.scandir(root / prefix))
        except OSError as error:
            skipped[printable(prefix) or "the folder itself"] = why_not_read(error)
            continue
        for entry in entries:
            name = prefix + entry.name
            if entry.name.startswith(".") or entry.name in NOT_OURS or name == dataset_json.NAME:
                continue
            try:
                kind = _kind(entry, name)
            except OSError as error:  # in a folder that may be listed and not entered, or deleted meanwhile
                kind = why_not_read(error)
            if isinstance(kind, _File):
                yield kind
            elif kind is None:
                pending.append(name + "/")
                folders.update(() if prefix else (entry.name,))
            else:
                skipped[printable(name)] = kind


def _walk_archive(root: pathlib.Path, skipped: dict[str, str], folders: set[str]) -> Iterator[_File]:
    """The same of a zip file, or of a folder in one."""
    place = archives.split_path(root)
    assert place is not None
    try:
        found = list(archives.entries(root))
    except Exception as error:  # a damaged zip raises almost anything
        raise UserError(f"cannot read the zip {printable(str(place[0]))} ({first_line(error)}): repair it") from error
    skipped.update({printable(name): "leads out of the zip" for name in archives.outside(root)})
    for name, info in found:
        parts = name.split("/")
        if any(part.startswith(".") or part in NOT_OURS for part in parts):
            continue
        if len(parts) > 1:
            folders.add(parts[0])
        if os.path.splitext(name)[1].lower() in suffixes():
            yield _File(name, info.file_size, _hash(f"{name}|{info.file_size}|{info.CRC}"))
        elif name != dataset_json.NAME:
            skipped[printable(name)] = OTHER


def _kind(entry: os.DirEntry[str], name: str) -> _File | str | None:
    """A file with a picture's ending, None for a sub-folder, or why it is neither."""
    if entry.is_symlink():
        return LINK
    if entry.is_dir(follow_symlinks=False):
        return None
    if not entry.is_file(follow_symlinks=False):
        return "not a file"
    if os.path.splitext(entry.name)[1].lower() not in suffixes():
        return OTHER
    status = entry.stat(follow_symlinks=False)
    return _File(name, status.st_size, _hash(f"{name}|{status.st_size}|{status.st_mtime_ns}"))


def _check(
    root: pathlib.Path, found: list[_File], keys: UInt64[np.ndarray, " files"]
) -> tuple[Int32[np.ndarray, "files 3"], list[str], int]:
    """(width, height, peak) of each file, a reason where it cannot be read, and how many had to be read now."""
    cache = cache_dir() / "folders" / f"{_hash(str(root)):016x}-{_VERSION}.npz"
    sizes, reasons, known = _from_cache(cache, keys)
    missing = np.flatnonzero(~known)
    if not len(missing):
        return sizes, reasons, 0
    try:
        with (
            progress(f"scanning {root.name}", len(missing), " files") as bar,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            for first in range(0, len(missing), _CHUNK):
                chunk = missing[first : first + _CHUNK]
                results = pool.map(_read, [root / found[i].name for i in chunk])
                for i, (size, reason) in zip(chunk, results, strict=True):
                    sizes[i], reasons[i], known[i] = size, reason, True
                bar.update(len(chunk))
    finally:  # what is known when a long scan is interrupted need not be read again
        _to_cache(cache, keys[known], sizes[known], [reasons[i] for i in np.flatnonzero(known)])
    return sizes, reasons, len(missing)


def _read(path: pathlib.Path) -> tuple[tuple[int, int, int], str]:
    try:
        return check_picture(path), ""
    except UnreadablePicture as error:
        return (0, 0, 0), str(error)


def _from_cache(
    cache: pathlib.Path, keys: UInt64[np.ndarray, " files"]
) -> tuple[Int32[np.ndarray, "files 3"], list[str], Any]:
    sizes, reasons, known = np.zeros((len(keys), 3), np.int32), [""] * len(keys), np.zeros(len(keys), bool)
    try:
        stored = read_arrays(cache)
        old, old_sizes, old_reasons = stored["keys"], stored["sizes"], stored["reasons"].tolist()
        numbers, reader = stored["numbers"], str(stored["reader"])
        places = np.clip(np.searchsorted(old, keys), 0, len(old) - 1)
        known = old[places] == keys
        sizes[known] = old_sizes[places[known]]
        for i in np.flatnonzero(known & (numbers[places] > 0)):
            reasons[i] = old_reasons[numbers[places[i]]]
            # By now it may be readable without having changed.
            known[i] = reader == _reader() and not reasons[i].startswith(PASSING)
    except Exception:  # absent, or damaged in any way: everything is read anew
        known[:] = False
    return sizes, reasons, known


def _to_cache(
    cache: pathlib.Path, keys: UInt64[np.ndarray, " files"], sizes: Int32[np.ndarray, "files 3"], reasons: list[str]
) -> None:
    different = sorted({"", *reasons})
    number = {reason: i for i, reason in enumerate(different)}
    order = np.argsort(keys)
    numbers = np.asarray([number[r] for r in reasons], np.int64)
    try:
        arrays = {"keys": keys[order], "sizes": sizes[order], "numbers": numbers[order]}
        arrays.update(reasons=np.asarray(different), reader=np.asarray(_reader()))
        save_arrays(cache, arrays, compressed=False)
    except OSError as error:
        print(
            f"cannot keep the scan in {cache.parent} ({first_line(error)}): it is made anew each time", file=sys.stderr
        )


def _reader() -> str:
    """What else decides whether a file can be read: another Pillow may know its format, another limit let it pass."""
    return f"Pillow {PIL.__version__}, {PIL.Image.MAX_IMAGE_PIXELS} pixels"


def warning_of(skipped: dict[str, str], root: pathlib.Path) -> str:
    """A sentence for each skipped file, the first of them at least, and where the others stand."""
    lines = [f"  {name}: {reason}" for name, reason in skipped.items()]
    if len(lines) > _NAMED:
        path = cache_dir() / "folders" / f"{_hash(str(root)):016x}-skipped.txt"
        where = f": see {path}"
        try:
            if not cache_lasts():
                raise OSError("there is no cache")
            with whole_file(path) as temporary:
                temporary.write_text("\n".join(line.strip() for line in lines) + "\n", encoding="utf-8")
        except OSError as error:
            where = f", which cannot be listed in {path} ({first_line(error)})"
        lines = [*lines[:_NAMED], f"  and {len(lines) - _NAMED} more{where}"]
    return "\n".join([f"skipped {len(skipped)} in {printable(root.name)} (config.data.strict refuses them):", *lines])


def _first(skipped: dict[str, str]) -> str:
    """The first skipped files, for an error's one line."""
    named = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
    return named + (f"; and {len(skipped) - 3} more" if len(skipped) > 3 else "")


def refuse_skipped(skipped: dict[str, str], root: pathlib.Path) -> None:
    """Refuses a folder of which files were skipped, for `config.data.strict`.

    Raises:
        UserError: something was skipped.
    """
    if skipped:
        raise UserError(
            f"{printable(str(root))} has {len(skipped)} files that cannot be used ({_first(skipped)}). Repair or remove them, or "
            "set config.data.strict=False to train without them"
        )


def _check_class_names(root: pathlib.Path, classes: list[str]) -> None:
    """Two names that a system which ignores case, or composes letters, takes for one would be one class there."""
    seen: dict[str, str] = {}
    for name in classes:
        other = seen.setdefault(_normal(name).casefold(), name)
        if other != name:
            raise UserError(
                f"classes {printable(other)!r} and {printable(name)!r} in {printable(str(root))} differ by case or by how "
                "their letters are encoded: on other systems they are one. Rename one, or put their pictures together"
            )


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
