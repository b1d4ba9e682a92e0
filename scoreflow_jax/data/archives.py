"""Zip files of pictures, read as the folders that they hold: a path may lead through one, as in pictures.zip/train/1.png."""

import functools
import io
import os
import pathlib
import threading
import zipfile
from collections.abc import Iterator

_LARGEST = 2**30  # bytes of a picture's file: what a zip says of itself may be anything

_lock = threading.Lock()


def split_path(path: pathlib.Path) -> tuple[pathlib.Path, str] | None:
    """The zip file that a path is or leads through, and the name within it, "" for the zip itself; None for a path of files."""
    if path.suffix.lower() == ".zip" and path.is_file():
        return path, ""
    for parent in path.parents:
        if parent.suffix.lower() == ".zip" and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None


def is_folder(path: pathlib.Path) -> bool:
    """Whether it is a folder, a zip file, or a folder in one."""
    if os.path.isdir(path):
        return True
    place = split_path(path)
    return place is not None and (not place[1] or any(name.startswith(f"{place[1]}/") for name in _entries(place[0])))


def entries(path: pathlib.Path) -> Iterator[zipfile.ZipInfo]:
    """The files below a folder of a zip, in no order.

    Raises:
        zipfile.BadZipFile, OSError: it cannot be read.
    """
    place = split_path(path)
    assert place is not None
    prefix = f"{place[1]}/" if place[1] else ""
    return (info for name, info in _entries(place[0]).items() if name.startswith(prefix) and not info.is_dir())


def names_in(path: pathlib.Path) -> list[str]:
    """Names of the files and folders directly in a folder of a zip."""
    place = split_path(path)
    assert place is not None
    prefix = f"{place[1]}/" if place[1] else ""
    return sorted({name[len(prefix) :].split("/")[0] for name in _entries(place[0]) if name.startswith(prefix)} - {""})


def read_entry(path: pathlib.Path) -> io.BytesIO:
    """The content of a file in a zip, whose sum zip compares.

    Raises:
        FileNotFoundError: there is none of that name.
        ValueError: it is encrypted, or too large for a picture.
        zipfile.BadZipFile, OSError: it is damaged.
    """
    place = split_path(path)
    if place is None or place[1] not in _entries(place[0]):
        raise FileNotFoundError(f"no such file: {path}")
    info = _entries(place[0])[place[1]]
    if info.flag_bits & 1:
        raise ValueError("encrypted")
    if info.file_size > _LARGEST:
        raise ValueError(f"{info.file_size:,} bytes, more than a picture has")
    return io.BytesIO(_opened(place[0]).read(info))


def _entries(archive: pathlib.Path) -> dict[str, zipfile.ZipInfo]:
    return _opened(archive).NameToInfo


def _opened(archive: pathlib.Path) -> zipfile.ZipFile:
    """Opened anew in every process, and when the file has changed."""
    status = archive.stat()
    with _lock:
        return _open(str(archive), os.getpid(), status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=8)
def _open(archive: str, *_: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(archive)
