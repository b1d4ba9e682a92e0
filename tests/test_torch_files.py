"""The reader of PyTorch files: every format, read back number by number, and files that are damaged or mean harm."""

import pathlib
import pickle
import random
import struct
import sys
import tracemalloc
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest

from scoreflow_jax.torch_files import STORAGES, TorchFileError, read_torch_file
from tests.torch_writer import archive, call, integer, legacy, mapping, name_of, numpy_number, pickled, tensor, text

TENSOR = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "checkpoint.pth"


def test_zip_with_containers_views_and_strides(file):
    whole = tensor("0", "FloatStorage", 6, size=(2, 3), stride=(3, 1))
    turned = tensor("0", "FloatStorage", 6, size=(3, 2), stride=(1, 3))
    part = tensor("0", "FloatStorage", 6, offset=2, size=(3,), stride=(1,))
    body = mapping(
        whole=whole, turned=turned, part=part, scalar=tensor("0", "FloatStorage", 6, offset=5),
        parameter=call("torch._utils._rebuild_parameter", whole, b"\x88", call("collections.OrderedDict")),
        size=call("torch.Size", b"(" + integer(2) + integer(3) + b"t"), big=integer(2**40), step=integer(-7),
        rest=b"](NG" + struct.pack(">d", 2.5) + b"\x88" + text("s") + b"e", empty=b")",
    )  # fmt: skip
    got = read_torch_file(archive(file, body, [("0", TENSOR.tobytes())]))
    np.testing.assert_array_equal(got["whole"], TENSOR)
    np.testing.assert_array_equal(got["turned"], TENSOR.T)
    np.testing.assert_array_equal(got["part"], [2, 3, 4])
    np.testing.assert_array_equal(got["parameter"], TENSOR)
    assert (got["scalar"].shape, float(got["scalar"])) == ((), 5.0)
    assert (got["size"], got["big"], got["step"], got["rest"], got["empty"]) == (
        (2, 3),
        2**40,
        -7,
        [None, 2.5, True, "s"],
        (),
    )
    assert not got["whole"].flags.writeable


@pytest.mark.parametrize("storage", STORAGES)
def test_every_storage(file, storage):
    values = np.array([0, 1, 1, 0, 1]).astype(STORAGES[storage])
    body = tensor("k", storage, 5, size=(5,), stride=(1,))
    for path in (archive(file, body, [("k", values.tobytes())]), None):
        if path is None:
            body = tensor("k", storage, 5, size=(5,), stride=(1,), legacy=True)
            path = legacy(file, body, [("k", 5, values.tobytes())])
        got = read_torch_file(path)
        assert got.dtype == values.dtype
        np.testing.assert_array_equal(got, values)
    assert np.dtype(STORAGES["BFloat16Storage"]) == ml_dtypes.bfloat16


def test_legacy_stream_with_shared_storages(file):
    a = tensor("94", "FloatStorage", 6, size=(2, 3), stride=(3, 1), legacy=True)
    b = tensor("94", "FloatStorage", 6, offset=3, size=(3,), stride=(1,), legacy=True)
    c = tensor("21", "LongStorage", 2, size=(2,), stride=(1,), legacy=True)
    numbers = np.array([2**40, -1])
    path = legacy(file, mapping(a=a, b=b, c=c), [("21", 2, numbers.tobytes()), ("94", 6, TENSOR.tobytes())])
    got = read_torch_file(path)
    np.testing.assert_array_equal(got["a"], TENSOR)
    np.testing.assert_array_equal(got["b"], [3, 4, 5])
    np.testing.assert_array_equal(got["c"], numbers)


def test_torchscript_modules_are_their_attributes(file):
    weight = tensor("0", "FloatStorage", 6, size=(2, 3), stride=(3, 1))
    inner = (
        name_of("__torch__.torch.nn.modules.conv.___torch_mangle_3.Conv2d") + b")\x81" + mapping(weight=weight) + b"b"
    )
    lists = call("torch.jit._pickle.build_intlist", b"](" + integer(1) + integer(2) + b"e")
    body = name_of("__torch__.Net") + b")\x81" + mapping(conv=inner, strides=lists, training=b"\x89") + b"b"
    got = read_torch_file(
        archive(file, body, [("0", TENSOR.tobytes())], **{"constants.pkl": pickled(b")"), "version": b"3"})
    )
    np.testing.assert_array_equal(got["conv"]["weight"], TENSOR)
    assert (got["strides"], got["training"]) == ([1, 2], False)


def test_state_dicts_lose_only_their_metadata(file):
    body = call("collections.OrderedDict") + text("w") + integer(1) + b"s" + mapping(_metadata=b"}") + b"b"
    assert read_torch_file(archive(file, body)) == {"w": 1}


# What is refused.


class Harm:
    """Would touch a file if anything ran it."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path(self.target),))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["archive", "legacy"])
def test_nothing_runs(file, tmp_path, protocol, kind):
    target = tmp_path / "touched"
    harm = pickle.dumps(Harm(target), protocol)
    if kind == "archive":
        with zipfile.ZipFile(file, "w") as out:
            out.writestr("archive/data.pkl", harm)
    else:
        legacy(file, b"", [])
        head = file.read_bytes()
        file.write_bytes(head[: head.index(b"\x80\x02.")] + harm)
    with pytest.raises(TorchFileError, match=r"getattr|pathlib|which no tensor needs"):
        read_torch_file(file)
    assert not target.exists()
    pickle.loads(harm)  # what PyTorch's own reader did before it learned to refuse
    assert target.exists()


HOSTILE = {
    "os.system": (call("os.system", text("true")), "asks for os.system"),
    "builtins.eval": (call("builtins.eval", text("1")), "asks for builtins.eval"),
    "numpy": (call("numpy.core.multiarray._reconstruct"), "asks for numpy"),
    "attribute of a function": (
        name_of("torch._utils._rebuild_tensor_v2") + mapping(__defaults__=b")") + b"b",
        "attributes",
    ),
    "call of a string": (text("x") + b")R", "calls a str"),
    "call of a storage": (name_of("torch.FloatStorage") + b")R", "calls torch.FloatStorage"),
    "object of a known name": (name_of("collections.OrderedDict") + b")\x81", "makes an object"),
    "arguments for a module": (name_of("__torch__.M") + b"(" + text("x") + b"t\x81", "makes an object"),
    "extension registry": (b"\x82\x01", "EXT1"),
    "instance of a class": (b"(i__main__\nHarm\n", "INST"),
    "empty stack": (b"0", "POP"),
    "reduce nothing": (b"R", "empty stack"),
    "memo that is not there": (b"h\x07", "KeyError"),
    "no end": (b"}" + b"q\x00", "NoStop"),
    "list of a dict": (b"}(Ne", "appends to a dict"),
    "item of a list": (b"]NNs", "items of a list"),
    "nested key": (b"}" + b")" + b"\x85" * 20_000 + b"Ns", "key of type tuple"),
    "key that is a tensor": (b"}" + tensor("0", "FloatStorage", 6) + b"Ns", "key of type ndarray"),
    "storage of objects": (
        b"(" + text("storage") + name_of("os.PathLike") + text("0") + text("cpu") + integer(1) + b"tQ",
        "asks for os.PathLike",
    ),
    "storage that is not there": (tensor("9", "FloatStorage", 6, size=(6,), stride=(1,)), "KeyError"),
    "storage outside": (tensor("../../secret", "FloatStorage", 6, size=(6,), stride=(1,)), "KeyError"),
    "storage too long": (tensor("0", "FloatStorage", 7, size=(7,), stride=(1,)), "holds 24 bytes, expected 28"),
    "storage of negative length": (tensor("0", "FloatStorage", -1), "holds 24 bytes"),
    "tensor beyond its storage": (tensor("0", "FloatStorage", 6, offset=4, size=(3,), stride=(1,)), "buffer"),
    "tensor before its storage": (tensor("0", "FloatStorage", 6, offset=-1, size=(3,), stride=(1,)), "ValueError"),
    "negative stride": (tensor("0", "FloatStorage", 6, offset=5, size=(3,), stride=(-1,)), "not counts"),
    "expanded tensor": (
        tensor("0", "FloatStorage", 6, size=(2**30, 2**30), stride=(0, 0)),
        "numbers on a storage of 6",
    ),
    "many dimensions": (tensor("0", "FloatStorage", 6, size=(1,) * 200, stride=(1,) * 200), "not counts"),
    "huge integer": (b"\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01", "ValueError"),
    "huge string": (b"X" + struct.pack("<I", 2**32 - 1) + b"abc", "ValueError"),
    "huge bytes": (b"\x8e" + struct.pack("<Q", 2**62) + b"abc", "ValueError"),
    "huge memo": (b"}r" + struct.pack("<I", 2**32 - 1) + b"j" + struct.pack("<I", 5), "KeyError"),
    "name that is a tuple": (b")" + b"\x85" * 20_000 + b"X\x01\x00\x00\x00a\x93", "a name that is not a string"),
    "name of a tuple that holds itself twice": (
        b")q\x01" + b"h\x01h\x01\x86q\x01" * 60 + text("a") + b"\x93",
        "a name that is not",
    ),
    "size of a tuple that holds itself twice": (
        b")q\x01" + b"h\x01h\x01\x86q\x01" * 60 + name_of("torch._utils._rebuild_tensor_v2") + b"(NK\x00h\x01h\x01tR",
        "a tensor without a storage",
    ),
    "tensor of a string": (
        call("torch._utils._rebuild_tensor_v2", text("a"), integer(0), b")", b")"),
        "without a storage",
    ),
    "product of huge sizes": (
        tensor("0", "FloatStorage", 6, size=(2**60,) * 30, stride=(0,) * 30),
        "numbers on a storage of 6",
    ),
    "keys that collide": (
        b"}(" + b"".join(b"\x8a\x09" + (i * (2**61 - 1)).to_bytes(9, "little") + b"N" for i in range(1, 50)) + b"u",
        "key of type int",
    ),
    "size of a tensor": (
        name_of("torch.Size") + tensor("0", "FloatStorage", 6, size=(6,), stride=(1,)) + b"\x85R",
        "container of a ndarray",
    ),
    "dict of no pairs": (call("collections.OrderedDict", b"](" + integer(1) + b"e"), "else than pairs"),
    "array of NumPy": (call("numpy.core.multiarray._reconstruct", b"N"), "asks for numpy.core.multiarray._reconstruct"),
    "object of NumPy": (call("numpy.dtype", text("O8")), "calls numpy.dtype"),
    "many empty sets": (b"(" + b"\x8f" * 100_000 + b"t", "over and over"),
    "copies of copies": (
        b"](" + b"K\x01" * 5_000 + b"eq\x01" + b"".join(name_of("torch.Size") + b"h\x01\x85R" for _ in range(500)),
        "copies containers over and over",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_and_cost_little(file, name):
    body, match = HOSTILE[name]
    with zipfile.ZipFile(file, "w") as out:
        end = b"" if name == "no end" else b"."
        out.writestr("archive/data.pkl", b"\x80\x02" + body + end)
        out.writestr("archive/data/0", TENSOR.tobytes())
    tracemalloc.start()
    with pytest.raises(TorchFileError) as caught:
        read_torch_file(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert match in str(caught.value) or name == "no end"
    assert str(file) in str(caught.value)
    # A one-byte opcode may make an empty dict of 64 bytes, and decoding keeps a few hundred bytes an opcode alive.
    assert peak < 400_000 + 300 * file.stat().st_size


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_networks_with_code_inside_are_refused_with_what_to_do(file, protocol, monkeypatch):
    """Pickles as NVIDIA's repositories write them, whose objects hold the source that would be run to make them."""

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("it was run")

    class Network:
        def __reduce__(self):
            return _reconstruct_persistent_obj, ({"type": "class", "module_src": "import os"},)

    module = types.ModuleType("torch_utils.persistence")
    _reconstruct_persistent_obj.__module__, _reconstruct_persistent_obj.__qualname__ = (
        module.__name__,
        "_reconstruct_persistent_obj",
    )
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    file.write_bytes(pickle.dumps({"ema": Network()}, protocol=protocol))
    with pytest.raises(
        TorchFileError, match=r"asks for torch_utils.persistence.*with its Python code inside.*state_dict\(\)"
    ):
        read_torch_file(file)


def test_deep_keys_of_the_older_stream(file):
    """Its list of keys is the file's word alone."""
    for body in (b")" + b"\x85" * 20_000, b")q\x01" + b"h\x01h\x01\x86q\x01" * 60):
        legacy(file, tensor("0", "FloatStorage", 6, size=(6,), stride=(1,), legacy=True), [])
        head = file.read_bytes()
        file.write_bytes(head[: head.rindex(b"\x80\x02]")] + b"\x80\x02](" + body + b"e.")
        with pytest.raises(TorchFileError, match="no list of the storages' keys"):
            read_torch_file(file)


def test_entries_that_share_their_bytes(file):
    """A directory may name one entry many times over; each would be summed again."""
    archive(file, mapping(a=integer(1)), [(str(i), bytes(1000)) for i in range(50)])
    data = bytearray(file.read_bytes())
    at, first = data.index(b"PK\x01\x02"), None
    while data[at : at + 4] == b"PK\x01\x02":
        name, extra, comment = struct.unpack("<HHH", data[at + 28 : at + 34])
        if b"/data/" in data[at + 46 : at + 46 + name]:
            first = first or bytes(data[at + 42 : at + 46])
            data[at + 20 : at + 28] = struct.pack("<II", 40_000, 40_000)
            data[at + 42 : at + 46] = first
        at += 46 + name + extra + comment
    file.write_bytes(data)
    with pytest.raises(TorchFileError, match="overlap"):
        read_torch_file(file)


def test_numbers_of_numpy_are_numbers(file):
    """score_sde's learning rates are np.float64, so its checkpoints hold them in their optimizer's state."""
    body = mapping(lr=numpy_number(2e-4), step=numpy_number(np.int64(7)), flag=numpy_number(np.bool_(True)))
    got = read_torch_file(archive(file, body))
    assert got == {"lr": 2e-4, "step": 7, "flag": True}
    assert [type(value) for value in got.values()] == [float, int, bool]


def test_archives_that_lie(file):
    body = tensor("0", "FloatStorage", 6, size=(6,), stride=(1,))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("archive/data.pkl", pickled(body))
        out.writestr("archive/data/0", bytes(10**7))
    with pytest.raises(TorchFileError, match="is compressed"):
        read_torch_file(file)
    archive(file, body, [("0", TENSOR.tobytes())], byteorder=b"big")
    with pytest.raises(TorchFileError, match="big-endian"):
        read_torch_file(file)
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("readme.txt", "hello")
    with pytest.raises(TorchFileError, match="with 0 data.pkl"):
        read_torch_file(file)
    archive(file, body, [("0", TENSOR.tobytes())])
    data = bytearray(file.read_bytes())
    data[data.index(TENSOR.tobytes()) + 3] ^= 1
    file.write_bytes(data)
    with pytest.raises(TorchFileError, match="archive/data/0 is cut or changed"):
        read_torch_file(file)


def test_other_files_get_a_sentence(file, tmp_path):
    with pytest.raises(TorchFileError, match="there is no such file"):
        read_torch_file(tmp_path / "absent.pth")
    for content, match in (
        (b"", "is empty"),
        (b"hello\n", "not a PyTorch file"),
        (pickle.dumps({"a": 1}, 2), "older stream"),
    ):
        file.write_bytes(content)
        with pytest.raises(TorchFileError, match=match):
            read_torch_file(file)


@pytest.mark.parametrize("kind", ["archive", "legacy"])
def test_fuzzed_files_give_an_error_or_an_object(file, kind):
    """Random changes, cuts and repetitions: nothing but TorchFileError may come out, and no great memory go in."""
    is_legacy = kind == "legacy"
    parts = {n: tensor("0", "FloatStorage", 6, size=(2, 3), stride=(3, 1), legacy=is_legacy) for n in "abc"}
    body = mapping(**parts, step=integer(3), ema=mapping(shadow_params=b"](" + parts["a"] + parts["b"] + b"e"))
    path = (
        legacy(file, body, [("0", 6, TENSOR.tobytes())])
        if is_legacy
        else archive(file, body, [("0", TENSOR.tobytes())])
    )
    original = path.read_bytes()
    rng = random.Random(0)
    outcomes = {"object": 0, "error": 0}
    tracemalloc.start()
    for _ in range(400):
        data = bytearray(original)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[at] = rng.randrange(256)
                case 1:
                    data[at : at + 4] = rng.choice([b"\xff\xff\xff\x7f", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff"])
                case 2:
                    del data[at : at + rng.randint(1, 20)]
                case 3:
                    data[at:at] = data[at : at + rng.randint(1, 40)]
        path.write_bytes(data)
        try:
            read_torch_file(path)
            outcomes["object"] += 1
        except TorchFileError:
            outcomes["error"] += 1
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    assert outcomes["error"] > 100


def test_reads_nothing_beyond_what_it_was_given():
    """The stream that stands between pickletools and the file gives at most what is left, and never more memory."""
    from scoreflow_jax.torch_files import _Stream

    stream = _Stream(memoryview(b"ab\ncd"))
    assert (stream.readline(), stream.read(2**62), stream.read(1)) == (b"ab\n", b"cd", b"")
