"""Writes files as torch.save and torch.jit.save do, byte by byte: no test needs PyTorch.

The pickles are of protocol 2, one opcode after another, which is also how hostile ones are made.
"""

import functools
import pickle
import struct
import zipfile

import numpy as np


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value):
    return (
        b"J" + struct.pack("<i", value)
        if abs(value) < 2**31
        else b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
    )


def name_of(path):
    module, name = path.rsplit(".", 1)
    return f"c{module}\n{name}\n".encode()


def call(path, *arguments):
    return name_of(path) + b"(" + b"".join(arguments) + b"tR"


def tensor(key, storage, count, *, offset=0, size=(), stride=(), legacy=False):
    """torch._utils._rebuild_tensor_v2 of a storage."""
    view = b"N" if legacy else b""
    persistent = (
        b"(" + text("storage") + name_of(f"torch.{storage}") + text(key) + text("cpu") + integer(count) + view + b"tQ"
    )
    numbers = lambda values: b"(" + b"".join(integer(v) for v in values) + b"t"
    return call(
        "torch._utils._rebuild_tensor_v2", persistent, integer(offset), numbers(size), numbers(stride), b"\x89",
        call("collections.OrderedDict"),
    )  # fmt: skip


def numpy_number(value):
    """A NumPy scalar, as pickled by NumPy."""
    number = np.asarray(value)
    code = number.dtype.str[1:]
    state = b"(K\x03" + text(number.dtype.str[0]) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
    dtype = call("numpy.dtype", text(code), b"\x89", b"\x88") + state + b"b"
    data = call("_codecs.encode", text(number.tobytes().decode("latin1")), text("latin1"))
    return call("numpy.core.multiarray.scalar", dtype, data)


def mapping(**items):
    return b"}(" + b"".join(text(k) + v for k, v in items.items()) + b"u"


def pickled(body):
    return b"\x80\x02" + body + b"."


def archive(path, body, storages=(), root="archive", **extra):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{root}/data.pkl", pickled(body))
        for key, data in storages:
            file.writestr(f"{root}/data/{key}", data)
        for name, data in extra.items():
            file.writestr(f"{root}/{name}", data)
    return path


def legacy(path, body, storages):
    head = [
        pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    ]
    keys = pickle.dumps([key for key, _, _ in storages], 2)
    data = b"".join(struct.pack("<q", count) + numbers for _, count, numbers in storages)
    path.write_bytes(b"".join(head) + pickled(body) + keys + data)
    return path


def _put(storages, array):
    key = str(len(storages))
    data = np.ascontiguousarray(array)
    storages.append((key, data.tobytes()))
    stride = tuple(s // data.itemsize for s in data.strides)
    kind = {"float32": "FloatStorage", "float64": "DoubleStorage"}[str(data.dtype)]
    return tensor(key, kind, data.size, size=data.shape, stride=stride)


def state_dict(path, arrays):
    """A file of named arrays alone, as torchvision's."""
    storages = []
    body = b"}(" + b"".join(text(name) + _put(storages, array) for name, array in arrays.items()) + b"u"
    return archive(path, body, storages)


def checkpoint(path, model, averages, step):
    """A checkpoint of score_sde or RectifiedFlow: {"model", "ema", "step", "optimizer"}, from float32 arrays."""
    storages = []
    put = functools.partial(_put, storages)
    named = b"}(" + b"".join(text(name) + put(array) for name, array in model.items()) + b"u"
    shadow = b"](" + b"".join(put(array) for array in averages) + b"e"
    ema = mapping(decay=b"G" + struct.pack(">d", 0.999), num_updates=integer(step), shadow_params=shadow)
    return archive(
        path,
        mapping(optimizer=mapping(state=b"}", lr=numpy_number(2e-4)), model=named, ema=ema, step=integer(step)),
        storages,
    )
