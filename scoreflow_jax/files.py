"""Files that are whole or not there, and the folder for what can be made again."""

import atexit
import contextlib
import functools
import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

_writes = True


def write_nothing() -> None:
    """From now on whole_file drops what it is given: of several processes only the first writes."""
    global _writes
    _writes = False


def writing() -> bool:
    """Whether this process writes files."""
    return _writes


def cache_dir() -> pathlib.Path:
    """$XDG_CACHE_HOME/scoreflow_jax, else ~/.cache/scoreflow_jax; else, said in a line, a folder that ends with the process."""
    return _cache(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))[0]


def cache_lasts() -> bool:
    """Whether what is in `cache_dir` is there when the process has ended."""
    return _cache(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))[1]


@functools.cache
def _cache(root: str) -> tuple[pathlib.Path, bool]:
    folder = pathlib.Path(root) / "scoreflow_jax"
    try:
        if root.startswith("~"):
            raise OSError("this user has no home")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder, True
    except OSError as error:
        print(
            f"no cache in {folder} ({error.strerror or error}): what it would keep is made anew each time; XDG_CACHE_HOME names "
            "another place",
            file=sys.stderr,
        )
    temporary = tempfile.mkdtemp(prefix="scoreflow_jax-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return pathlib.Path(temporary), False


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path of the same suffix, renamed to `path` when the block ends without an error.

    Where the block removes it, what was at `path` is removed as well: nothing is left that is not of this block.
    """
    if _writes:
        path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent if _writes else None
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=folder)
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        if not _writes:
            return
        if not temporary.exists():
            path.unlink(missing_ok=True)
            return
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON beside its place and renames it."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def save_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray], *, compressed: bool = True) -> None:
    """Writes an npz of named arrays beside its place and renames it.

    Args:
        path: of the npz.
        arrays: by their names in it.
        compressed: whether they are compressed in it.
    """
    with whole_file(path) as temporary:
        (np.savez_compressed if compressed else np.savez)(temporary, allow_pickle=False, **arrays)
