"""Reads tensors out of PyTorch's files without PyTorch, and without running anything that a file says.

A PyTorch file is a pickle, a program for a small stack machine that may call any function at all, and the raw numbers of the
tensors beside it: in a zip archive since PyTorch 1.6, behind the pickle in one stream before. TorchScript's archives are
zips too, with modules in the pickle. Here the machine is our own and knows only what builds tensors, plain containers,
strings and numbers; whatever else a file asks for is refused by name. Tensors are views of the file mapped into memory, so a
file cannot make us allocate more than a small multiple of its pickle's own size.
"""

import mmap
import pathlib
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from scoreflow_jax.errors import UserError, first_line

STORAGES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
}
"""Numbers of every storage class that is read; all little-endian."""

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_PROTO = 0x80  # the first byte of a binary pickle
_BIG_ENDIAN = "written by a big-endian machine: save it anew on a little-endian one, as nearly all are"
_DAMAGE = (
    ValueError, TypeError, KeyError, IndexError, OverflowError, EOFError, OSError, NotImplementedError, RuntimeError,
    struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What the standard library and NumPy raise at bytes that make no sense."""


class TorchFileError(UserError):
    """A file that is damaged, of another kind, or asks for something that is not a tensor or a plain container."""


def read_torch_file(path: str | pathlib.Path) -> Any:
    """Reads what torch.save or torch.jit.save wrote.

    Args:
        path: of a zip archive (PyTorch 1.6 and later, TorchScript included) or of the stream that came before it.

    Returns:
        The object: dicts (of a TorchScript module its attributes), lists, tuples, sets, strings, bytes, numbers, None, and
        tensors as read-only NumPy arrays, which are views of the file.

    Raises:
        TorchFileError: with what is wrong, and where the file asks for more than tensors and plain containers.
    """
    path = pathlib.Path(path)
    try:
        return _read(path)
    except TorchFileError as error:
        raise TorchFileError(f"{path}: {error}") from error
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {first_line(error, 120)}"
        raise TorchFileError(
            f"{path}: not a PyTorch file, or damaged ({reason}): download it again, or save it anew with torch.save"
        ) from error


def _read(path: pathlib.Path) -> Any:
    if not path.is_file():
        raise TorchFileError("there is no such file: give a PyTorch checkpoint, such as checkpoint.pth")
    if not path.stat().st_size:
        raise TorchFileError("the file is empty: download it again")
    with path.open("rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return _read_archive({entry.filename: entry for entry in archive.infolist()}, view)
    if view[0] != _PROTO:
        raise TorchFileError("not a PyTorch file, which is a zip archive or begins with a pickle")
    return _read_stream(view)


def _read_archive(entries: dict[str, zipfile.ZipInfo], view: memoryview) -> Any:
    """A zip: <name>/data.pkl, and one entry <name>/data/<key> for each storage."""
    pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise TorchFileError(f"a zip archive with {len(pickles)} data.pkl, expected 1: not a PyTorch file")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in entries and bytes(_entry(view, entries[f"{root}byteorder"])) != b"little":
        raise TorchFileError(_BIG_ENDIAN)
    storages: dict[str, np.ndarray] = {}

    def storage(dtype: Any, key: str, count: int) -> np.ndarray:
        if key not in storages:
            storages[key] = np.frombuffer(_entry(view, entries[f"{root}data/{key}"]), np.uint8)
        return _typed(storages[key], dtype, count, key)

    return _Machine(_entry(view, entries[pickles[0]]), storage).run()


def _entry(view: memoryview, entry: zipfile.ZipInfo) -> memoryview:
    """The bytes of an entry where they lie: PyTorch stores them uncompressed."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise TorchFileError(f"entry {entry.filename} is compressed, which PyTorch never does: save the file anew")
    header = entry.header_offset
    if bytes(view[header : header + 4]) != b"PK\x03\x04":
        raise ValueError(f"entry {entry.filename} is not where the archive says")
    name, extra = struct.unpack("<HH", view[header + 26 : header + 30])
    start = header + 30 + name + extra
    data = view[start : start + entry.file_size]
    if len(data) != entry.file_size or zlib.crc32(data) != entry.CRC:
        raise ValueError(f"entry {entry.filename} is cut or changed")
    return data


def _read_stream(view: memoryview) -> Any:
    """Before PyTorch 1.6: four pickles (magic number, version, machine, object), the storages' keys, and their numbers."""
    stream = _Stream(view)
    magic = _Machine(stream, _no_storage).run()
    if magic != _LEGACY_MAGIC or _Machine(stream, _no_storage).run() != _LEGACY_PROTOCOL:
        raise TorchFileError("not a PyTorch file: neither a zip archive nor PyTorch's older stream")
    machine = _Machine(stream, _no_storage).run()
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise TorchFileError(_BIG_ENDIAN)
    start = stream.tell()
    # The object comes before the numbers that its tensors need: once for the kinds of the storages, and again with them.
    kinds: dict[str, Any] = {}
    _Machine(stream, lambda dtype, key, count: kinds.setdefault(key, (dtype, count)) and None).run()
    storages: dict[str, np.ndarray] = {}
    for key in _Machine(stream, _no_storage).run():
        (count,) = struct.unpack("<q", stream.read(8))
        dtype, expected = kinds[key]
        if count != expected:
            raise ValueError(f"storage {key} has {count} numbers, expected {expected}")
        storages[key] = np.frombuffer(stream.take(count * np.dtype(dtype).itemsize), np.uint8)
    stream.seek(start)
    return _Machine(stream, lambda dtype, key, count: _typed(storages[key], dtype, count, key)).run()


def _no_storage(_dtype: Any, key: str, _count: int) -> None:
    raise ValueError(f"storage {key} where none can be")


def _typed(data: np.ndarray, dtype: Any, count: int, key: str) -> np.ndarray:
    """The first `count` numbers of a storage's bytes."""
    size = count * np.dtype(dtype).itemsize
    if not 0 <= size <= len(data):
        raise ValueError(f"storage {key} holds {len(data)} bytes, expected {size}")
    return np.ndarray((count,), dtype, buffer=data) if count else np.zeros(0, dtype)


class _Stream:
    """What pickletools reads from: never allocates more than there is, as an opened file does for a large count."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._at = view, 0

    def tell(self) -> int:
        return self._at

    def seek(self, position: int) -> None:
        self._at = position

    def take(self, count: int) -> memoryview:
        """The next bytes, where they lie."""
        if not 0 <= count <= len(self._view) - self._at:
            raise EOFError(f"{count} bytes asked for, {len(self._view) - self._at} left")
        self._at += count
        return self._view[self._at - count : self._at]

    def read(self, count: int) -> bytes:
        return bytes(self.take(min(count, len(self._view) - self._at)))

    def readline(self) -> bytes:
        for end in range(self._at, len(self._view)):
            if self._view[end] == 0x0A:
                return self.read(end + 1 - self._at)
        return self.read(len(self._view) - self._at)


class _Global(NamedTuple):
    """A name that a pickle asks for; never the thing itself."""

    module: str
    name: str


class _Module(dict):
    """A TorchScript module: its attributes."""


_TENSORS = {("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_tensor_v2")}
_FIRST_ARGUMENT = {
    ("torch._utils", "_rebuild_parameter"), ("torch._utils", "_rebuild_parameter_with_state"),
    ("torch.jit._pickle", "restore_type_tag"), ("torch.jit._pickle", "build_intlist"),
    ("torch.jit._pickle", "build_doublelist"), ("torch.jit._pickle", "build_boollist"),
    ("torch.jit._pickle", "build_tensorlist"),
}  # fmt: skip
_CONTAINERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): dict,
    ("torch", "Size"): tuple,
    ("__builtin__", "set"): set,
    ("builtins", "set"): set,
    ("__builtin__", "frozenset"): frozenset,
    ("builtins", "frozenset"): frozenset,
}
_ENCODE = ("_codecs", "encode")  # bytes, in pickles for Python 2
_KNOWN = _TENSORS | _FIRST_ARGUMENT | _CONTAINERS.keys() | {_ENCODE} | {("torch", name) for name in STORAGES}


class _Machine:
    """Runs one pickle, opcode by opcode, with `_OPERATIONS` as all that it can do."""

    def __init__(self, source: memoryview | _Stream, storage: Callable[[Any, str, int], Any]) -> None:
        """Prepares to run.

        Args:
            source: the pickle.
            storage: from a dtype, a key and a number of elements to the storage's numbers, or None to leave tensors out.
        """
        self._source = source if isinstance(source, _Stream) else _Stream(source)
        self._storage = storage
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0

    def run(self) -> Any:
        """The object that the pickle describes."""
        start = self._source.tell()
        for opcode, argument, _ in pickletools.genops(self._source):  # type: ignore[arg-type]
            if opcode.name == "STOP":
                return self._pop()
            if opcode.name not in _OPERATIONS:
                raise TorchFileError(
                    f"the file's pickle has the operation {opcode.name}, which no tensor needs: refused"
                )
            _OPERATIONS[opcode.name](self, argument)
            # Containers can be copied again and again for a few bytes each; no honest file copies more than it holds.
            if self._copied > self._source.tell() - start:
                raise TorchFileError("the file's pickle copies its containers over and over: refused")
        raise EOFError("the pickle has no end")

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("the pickle takes from an empty stack")
        return self._stack.pop()

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _since_mark(self) -> list[Any]:
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(items)))

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is set:
            target.update(_keys(items))
        else:
            raise ValueError(f"the pickle appends to a {type(target).__name__}")

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise ValueError(f"the pickle sets items of a {type(target).__name__}")
        target.update(zip(_keys(items[::2]), items[1::2], strict=True))

    def _global(self, module: Any, name: Any) -> None:
        if (module, name) not in _KNOWN and not str(module).split(".")[0] == "__torch__":
            raise TorchFileError(
                f"the file asks for {module}.{name}, which is neither a tensor nor a plain container: refused. Save it "
                "anew with tensors, dicts, lists, strings and numbers only, as in torch.save(model.state_dict(), path)"
            )
        self._push(_Global(module, name))

    def _persistent(self) -> None:
        """('storage', class, key, device, number of elements[, view]) becomes the storage."""
        kind, cls, key, _, count, *view = self._pop()
        if kind != "storage" or not isinstance(cls, _Global) or cls.name not in STORAGES or view not in ([], [None]):
            raise ValueError("a storage of an unknown kind")
        if type(key) is not str or type(count) is not int:
            raise ValueError("a storage without a key or a count")
        self._push((self._storage(STORAGES[cls.name], key, count),))

    def _call(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Global) or type(arguments) is not tuple:
            raise ValueError(f"the pickle calls a {type(function).__name__}")
        if function in _TENSORS:
            self._push(_tensor(*arguments[:4]))
        elif function in _FIRST_ARGUMENT:
            self._push(arguments[0])
        elif function in _CONTAINERS:
            self._copied += sum(len(a) for a in arguments)
            self._push(_container(_CONTAINERS[function], *arguments))
        elif function == _ENCODE and arguments[1:] == ("latin1",) and type(arguments[0]) is str:
            self._copied += len(arguments[0])
            self._push(arguments[0].encode("latin1"))
        else:
            raise ValueError(f"the pickle calls {function.module}.{function.name}")

    def _new_object(self) -> None:
        arguments, cls = self._pop(), self._pop()
        if not isinstance(cls, _Global) or (cls.module, cls.name) in _KNOWN or arguments != ():
            raise ValueError("the pickle makes an object that is not a TorchScript module")
        self._push(_Module())

    def _build(self) -> None:
        """Attributes: those of a module are kept, those of an OrderedDict (state_dict's versions) are not."""
        state, target = self._pop(), self._stack[-1]
        if not isinstance(target, dict) or not isinstance(state, dict):
            raise ValueError(f"the pickle sets attributes of a {type(target).__name__}")
        if isinstance(target, _Module):
            self._copied += len(state)
            target.update(state)

    def _memoize(self, index: int) -> None:
        self._memo[index] = self._stack[-1]


def _container(make: Callable[..., Any], items: Any = ()) -> Any:
    """A dict of pairs, a tuple, or a set."""
    if make is not tuple:
        _keys([key for key, _ in items] if make is dict else items)
    return make(items)


def _keys(items: Any) -> list[Any]:
    """The items, if all are plain: Python's hash of a tuple nested a million deep overflows the stack."""
    for item in items:
        if not isinstance(item, (str, bytes, int, float, type(None))):
            raise ValueError(f"a key of type {type(item).__name__}")
    return items


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> np.ndarray | None:
    """A view of a storage; None while the kinds of the storages are being collected."""
    (numbers,) = storage
    if numbers is None:
        return None
    if not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)) or len(size) != len(stride):
        raise ValueError(f"a tensor of size {size} and stride {stride}")
    count = int(np.prod(size, dtype=object)) if size else 1
    if count > len(numbers):
        raise ValueError(f"a tensor of {count} numbers on a storage of {len(numbers)}")
    if not count:
        return np.zeros(size, numbers.dtype)
    steps = tuple(n * numbers.itemsize for n in stride)
    view = np.ndarray(tuple(size), numbers.dtype, buffer=numbers, offset=offset * numbers.itemsize, strides=steps)
    view.flags.writeable = False
    return view


_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda *_: None),
    "MARK": lambda m, _: m._marks.append(len(m._stack)),
    "NONE": lambda m, _: m._push(None),
    "NEWTRUE": lambda m, _: m._push(True),
    "NEWFALSE": lambda m, _: m._push(False),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
         "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        lambda m, value: m._push(value),
    ),
    "EMPTY_LIST": lambda m, _: m._push([]),
    "EMPTY_DICT": lambda m, _: m._push({}),
    "EMPTY_SET": lambda m, _: m._push(set()),
    "EMPTY_TUPLE": lambda m, _: m._push(()),
    "TUPLE": lambda m, _: m._push(tuple(m._since_mark())),
    "TUPLE1": lambda m, _: m._tuple(1),
    "TUPLE2": lambda m, _: m._tuple(2),
    "TUPLE3": lambda m, _: m._tuple(3),
    "FROZENSET": lambda m, _: m._push(frozenset(_keys(m._since_mark()))),
    "APPEND": lambda m, _: m._append([m._pop()]),
    "APPENDS": lambda m, _: m._append(m._since_mark()),
    "ADDITEMS": lambda m, _: m._append(m._since_mark()),
    "SETITEM": lambda m, _: m._set_items([m._pop(), m._pop()][::-1]),
    "SETITEMS": lambda m, _: m._set_items(m._since_mark()),
    "GLOBAL": lambda m, value: m._global(*value.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m._global(*[m._pop(), m._pop()][::-1]),
    "BINPERSID": lambda m, _: m._persistent(),
    "REDUCE": lambda m, _: m._call(),
    "NEWOBJ": lambda m, _: m._new_object(),
    "BUILD": lambda m, _: m._build(),
    "BINPUT": lambda m, index: m._memoize(index),
    "LONG_BINPUT": lambda m, index: m._memoize(index),
    "MEMOIZE": lambda m, _: m._memoize(len(m._memo)),
    "BINGET": lambda m, index: m._push(m._memo[index]),
    "LONG_BINGET": lambda m, index: m._push(m._memo[index]),
}  # fmt: skip
