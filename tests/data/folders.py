"""What the tests of pictures and of folders of them share."""

import contextlib
import os
import pathlib
import shutil
import tempfile

import numpy as np
from PIL import Image

from scoreflow_jax.errors import UserError

NOBODY = 65534


def noise(height, width, channels=3, seed=0):
    """Random pixels; of one channel without an axis for it, as Pillow has them."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write(folder, *names, size=(8, 8)):
    """Different small pictures, in the format of each name's ending; returns the folder."""
    for i, name in enumerate(names):
        path = pathlib.Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (i % 256, i // 256, 9)).save(path)
    return folder


def one_line(caught, *parts):
    """A refusal is one printable line that holds these parts."""
    assert isinstance(caught.value, UserError)
    message = str(caught.value)
    assert message.isprintable(), message
    for part in parts:
        assert part in message, message


@contextlib.contextmanager
def reachable_folder():
    """A folder that a user without rights may enter, and write to."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="scoreflow_jax_tests_")).resolve()
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, -1)
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        for parent, _, _ in os.walk(folder):  # top down: each is opened before it is entered
            os.chmod(parent, 0o755)
        shutil.rmtree(folder)


@contextlib.contextmanager
def without_rights():
    """As a user for whom permissions mean something: root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
