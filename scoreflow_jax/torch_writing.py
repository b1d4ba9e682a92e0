"""Writes tensors as PyTorch's files have them, without PyTorch: what `torch.load(path, weights_only=True)` reads.

Such a file is a zip archive of a pickle, in which a tensor is a call on a storage, and of the storages' numbers. Python's own
pickler can only name functions that it can import, so the few opcodes of protocol 2 that are needed are written here.
"""

import pathlib
import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_ROOT = "archive"
_STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage"}


def write_torch_file(path: pathlib.Path, content: Any) -> None:
    """Writes nested dicts with names, lists, numbers, strings and float32 or float64 arrays.

    Args:
        path: to write to.
        content: what torch.load returns of it, with tensors in the arrays' places.

    Raises:
        TypeError: something else in it.
    """
    storages: list[np.ndarray] = []
    body = b"\x80\x02" + _pickled(content, storages) + b"."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr(f"{_ROOT}/data.pkl", body)
        file.writestr(f"{_ROOT}/byteorder", "little")
        for key, array in enumerate(storages):
            file.writestr(f"{_ROOT}/data/{key}", array.astype(array.dtype.newbyteorder("<")).tobytes())
        file.writestr(f"{_ROOT}/version", "3\n")


def _pickled(value: Any, storages: list[np.ndarray]) -> bytes:
    """The opcodes that build a value; arrays are added to the storages."""
    match value:
        case str():
            data = value.encode()
            return b"X" + struct.pack("<I", len(data)) + data
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
        case float():
            return b"G" + struct.pack(">d", value)
        case np.ndarray():
            return _tensor(np.asarray(value, order="C"), storages)
        case Mapping():
            items = (_pickled(k, storages) + _pickled(v, storages) for k, v in value.items())
            return b"}(" + b"".join(items) + b"u"
        case Sequence():
            return b"](" + b"".join(_pickled(each, storages) for each in value) + b"e"
    raise TypeError(f"cannot write {type(value).__name__}")


def _tensor(array: np.ndarray, storages: list[np.ndarray]) -> bytes:
    """torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)."""
    kind = _STORAGES.get(str(array.dtype))
    if kind is None:
        raise TypeError(f"cannot write an array of {array.dtype}")
    key = str(len(storages))
    storages.append(array)
    number = lambda n: _pickled(int(n), storages)  # noqa: E731
    numbers = lambda ns: b"(" + b"".join(number(n) for n in ns) + b"t"  # noqa: E731
    named = lambda path: b"c%s\n%s\n" % tuple(path.encode().rsplit(b".", 1))  # noqa: E731
    text = lambda words: _pickled(words, storages)  # noqa: E731
    storage = b"(" + text("storage") + named(f"torch.{kind}") + text(key) + text("cpu") + number(array.size) + b"tQ"
    strides = [step // array.itemsize for step in array.strides]
    hooks = named("collections.OrderedDict") + b")R"
    arguments = storage + number(0) + numbers(array.shape) + numbers(strides) + b"\x89" + hooks
    return named("torch._utils._rebuild_tensor_v2") + b"(" + arguments + b"tR"
