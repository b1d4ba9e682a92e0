"""Sums of what is written here and computed from later, so that a flipped bit on a disk is no other number.

Each in a form that other programs know. A folder has a file SHA256SUMS, which `sha256sum --check` reads too; a JSON object has
a member "sha256", of all others; a line of records a member "crc32"; an npz is a zip, which has a CRC of each array, and NumPy
needs nothing more to read it. Of checkpoints they are of files: sums of arrays would depend on how these are divided. What an
earlier version wrote without a sum is taken as it is, and a line says so once.
"""

import hashlib
import io
import json
import os
import pathlib
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.files import whole_file

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^\n]+)")
_FOREIGN = ("thumbs.db", "desktop.ini")
_OF_OBJECT, _OF_LINE = "sha256", "crc32"
_told: set[pathlib.Path] = set()


class Damaged(UserError):
    """Stored bytes that are not those that were written. The message names the file; who reads it knows what can be done."""


def write_sums(folder: pathlib.Path, names: Iterable[str], known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Writes SHA256SUMS of some files of a folder.

    Args:
        folder: gets it.
        names: of the files, relative to it.
        known: sums of other files, which it states as well.

    Returns:
        All that it states.
    """
    chosen = list(names)
    with ThreadPoolExecutor() as pool:
        found = dict(zip(chosen, pool.map(lambda name: _sum_of(folder / name), chosen), strict=True))
    stated = {**(known or {}), **found}
    with whole_file(folder / SUMS) as temporary:
        temporary.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(stated.items())))
    return stated


def check_sums(folder: pathlib.Path, wanted: Callable[[str], bool] | None = None) -> bool:
    """Compares files of a folder with its SHA256SUMS.

    Args:
        folder: that has it.
        wanted: which files, by their names relative to the folder, of those that are there and those that are listed; all.
            What file managers and network file systems leave there does not count.

    Returns:
        Whether there were sums: a folder of an earlier version has none.

    Raises:
        Damaged: a file differs, is missing, or has no sum.
    """
    stated = read_sums(folder)
    if stated is None:
        return False
    there = [name for name in files_below(folder) if name in stated or not _is_foreign(name)]
    check_files(folder, stated, {name for name in (*stated, *there) if wanted is None or wanted(name)} - {SUMS})
    return True


def check_files(folder: pathlib.Path, stated: Mapping[str, str], names: Collection[str]) -> None:
    """Compares some files with their sums.

    Args:
        folder: that holds them.
        stated: `read_sums` of it.
        names: of the files, relative to the folder.

    Raises:
        Damaged: a file differs, is missing, or has no sum.
    """
    chosen = sorted(names)
    with ThreadPoolExecutor() as pool:
        for name, found in zip(chosen, pool.map(lambda name: _sum_if_there(folder / name), chosen), strict=True):
            if found is None or found != stated.get(name):
                what = "is missing" if found is None else "has no sum" if name not in stated else "has another sum"
                raise Damaged(f"{name} {what} than when it was written" if "another" in what else f"{name} {what}")


def read_sums(folder: pathlib.Path) -> dict[str, str] | None:
    """Sums by name, as a folder's SHA256SUMS states them; None where there is none.

    Raises:
        Damaged: it is not in that form.
    """
    try:
        lines = (folder / SUMS).read_text().splitlines()
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Damaged(f"{SUMS} is no text ({first_line(error)})") from error
    found = [_LINE.fullmatch(line) for line in lines]
    if not lines or not all(found):
        raise Damaged(f"{SUMS} is damaged")
    return {match[2]: match[1] for match in found if match}


def files_below(folder: pathlib.Path) -> list[str]:
    """Names of all files below a folder, relative to it, with "/"."""
    return [
        pathlib.Path(parent, name).relative_to(folder).as_posix()
        for parent, _, names in os.walk(folder)
        for name in names
    ]


def write_json(path: pathlib.Path, value: dict[str, Any]) -> None:
    """Writes an object with its sum, beside its place, and renames it."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps({**value, _OF_OBJECT: _of_object(value)}, indent=2) + "\n")


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads what `write_json` wrote, without its sum; a line says if it has none. Raises as `read_object`."""
    value, has_sum = read_object(path)
    if not has_sum:
        say_without(path)
    return value


def read_object(path: pathlib.Path) -> tuple[dict[str, Any], bool]:
    """Reads what `write_json` wrote, and whether there was a sum to compare with.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        Damaged: it is no JSON object, or not the one that was written.
    """
    try:
        value = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged ({first_line(error)})") from error
    if not isinstance(value, dict):
        raise Damaged(f"{path} is damaged (no JSON object)")
    stated = value.pop(_OF_OBJECT, None)
    if stated is not None and stated != _of_object(value):
        raise Damaged(f"{path} is damaged (its content is not what its sum is of)")
    return value, stated is not None


def line_of(record: dict[str, Any]) -> str:
    """A record as a line of JSON with its sum, without a line break."""
    return json.dumps({**record, _OF_LINE: _of_record(record)})


def record_of(line: str) -> dict[str, Any] | None:
    """The record of a line, without its sum; None for one cut short or damaged. Lines of earlier versions have no sum.

    All else in a record is a number: a text in it is a sum whose name was damaged.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    stated = record.pop(_OF_LINE, None)
    whole = stated in (None, _of_record(record)) and all(isinstance(v, (int, float)) for v in record.values())
    return record if whole else None


def has_sums(text: str) -> bool:
    """Whether all lines of records have a sum; those of earlier versions have none."""
    return all(f'"{_OF_LINE}"' in line for line in text.splitlines())


def damaged_lines(text: str) -> list[int]:
    """Numbers, from 1, of the lines of records that are none. The last one does not count where it was cut short by a stop."""
    lines = text.splitlines()
    whole = lines if text.endswith("\n") else lines[:-1]
    return [number for number, line in enumerate(whole, 1) if record_of(line) is None]


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of an npz. Each is read to its end, since that is where zip compares its sum.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it is no npz, or not what was written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                name.removesuffix(".npy"): np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
                for name in archive.namelist()
            }
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # a damaged zip raises almost anything
        raise Damaged(f"{path} is damaged ({first_line(error)})") from error


def say_without(path: pathlib.Path) -> None:
    """Says once of a file or folder that it has no sum to compare with."""
    if path not in _told:
        _told.add(path)
        print(f"{path} has no sum, as earlier versions wrote it: taken as it is", file=sys.stderr)


def _of_object(value: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(value)).hexdigest()


def _of_record(record: dict[str, Any]) -> str:
    return f"{zlib.crc32(_canonical(record)):08x}"


def _canonical(value: dict[str, Any]) -> bytes:
    """The same bytes for equal content, whatever the order of members and the spaces between them."""
    plain = json.loads(json.dumps(value))  # tuples and numbers as names are then as they are read
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()


def _is_foreign(name: str) -> bool:
    """Whether a file is one that others put into any folder: .DS_Store, ._x, .nfs..., Thumbs.db."""
    last = name.split("/")[-1]
    return last.startswith(".") or last.casefold() in _FOREIGN


def _sum_of(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sum_if_there(path: pathlib.Path) -> str | None:
    try:
        return _sum_of(path)
    except FileNotFoundError:
        return None
