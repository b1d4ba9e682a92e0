"""Zip files of pictures, read as the folders that they hold: a path may lead through one, as in pictures.zip/train/1.png."""

import dataclasses
import functools
import io
import os
import pathlib
import threading
import zipfile
from collections.abc import Iterator

_LARGEST = 2**30  # bytes of a picture's file: what a zip says of itself may be anything

_lock = threading.Lock()


@dataclasses.dataclass(frozen=True)
class _Archive:
    """An open zip.

    Attributes:
        file: itself.
        entries: files by their names from its root.
        folders: names of all folders, those included that only names of files tell of.
        outside: names that lead out of it, which are not read: as a path one might be a file of the user's.
    """

    file: zipfile.ZipFile
    entries: dict[str, zipfile.ZipInfo]
    folders: frozenset[str]
    outside: tuple[str, ...]

    @classmethod
    def of(cls, file: zipfile.ZipFile) -> "_Archive":
        """Reads a zip's names, as zips have them: some begin with "./"."""
        entries: dict[str, zipfile.ZipInfo] = {}
        folders, outside = set(), []
        for info in file.infolist():
            parts = [part for part in info.filename.split("/") if part != "."]
            if info.is_dir():
                parts.pop()
            if ".." in parts or "" in parts:
                outside.append(info.filename)
                continue
            if not info.is_dir():
                entries["/".join(parts)] = info
                parts.pop()
            folders.update("/".join(parts[:end]) for end in range(1, len(parts) + 1))
        return cls(file, entries, frozenset(folders), tuple(outside))


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
    return place is not None and (not place[1] or place[1] in _opened(place[0]).folders)


def entries(path: pathlib.Path) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """The files below a folder of a zip with their names relative to it, in no order.

    Raises:
        zipfile.BadZipFile, OSError: it cannot be read.
    """
    archive, prefix = _place(path)
    return ((name[len(prefix) :], info) for name, info in archive.entries.items() if name.startswith(prefix))


def outside(path: pathlib.Path) -> tuple[str, ...]:
    """Names in a zip that lead out of it."""
    return _place(path)[0].outside


def names_in(path: pathlib.Path) -> list[str]:
    """Names of the files and folders directly in a folder of a zip."""
    archive, prefix = _place(path)
    known = (*archive.entries, *archive.folders)
    return sorted({name[len(prefix) :].split("/")[0] for name in known if name.startswith(prefix)} - {""})


def read_entry(path: pathlib.Path) -> io.BytesIO:
    """The content of a file in a zip, whose sum zip compares.

    Raises:
        FileNotFoundError: there is none of that name.
        ValueError: it is encrypted, or too large for a picture.
        zipfile.BadZipFile, OSError: it is damaged.
    """
    place = split_path(path)
    archive = None if place is None else _opened(place[0])
    if place is None or archive is None or place[1] not in archive.entries:
        raise FileNotFoundError(f"no such file: {path}")
    info = archive.entries[place[1]]
    if info.flag_bits & 1:
        raise ValueError("encrypted")
    if info.file_size > _LARGEST:
        raise ValueError(f"{info.file_size:,} bytes, more than a picture has")
    return io.BytesIO(archive.file.read(info))


def _place(path: pathlib.Path) -> tuple[_Archive, str]:
    """The zip that a path is or leads through, and what names below the path begin with."""
    place = split_path(path)
    assert place is not None
    return _opened(place[0]), f"{place[1]}/" if place[1] else ""


def _opened(archive: pathlib.Path) -> _Archive:
    """Opened anew in every process, and when the file has changed."""
    status = archive.stat()
    with _lock:
        return _open(str(archive), os.getpid(), status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=8)
def _open(archive: str, *_: int) -> _Archive:
    return _Archive.of(zipfile.ZipFile(archive))
