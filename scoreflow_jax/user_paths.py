"""Paths as users give them: every one that comes from a config, a flag or a call goes through `user_path`."""

import os
import pathlib
import tempfile

from scoreflow_jax.errors import UserError, first_line


def user_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """A path with ~ for a home.

    Raises:
        UserError: the home of a user that there is not, or of one whose home the system does not know.
    """
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"there is no folder {path}: {first_line(error)} Give the whole path") from error


def writable_folder(folder: pathlib.Path, flag: str) -> pathlib.Path:
    """A folder, made where it is not there, in which a file can be written.

    Args:
        folder: that is to be written to.
        flag: of the command line that names another one.

    Raises:
        UserError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({first_line(error)}): give another {flag}=DIR") from error
