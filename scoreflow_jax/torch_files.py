"""Reads tensors out of PyTorch's files without PyTorch, and without running anything that a file says.

A PyTorch file is a pickle, a program for a small stack machine that may call any function at all, and the raw numbers of the
tensors beside it: in a zip archive since PyTorch 1.6, behind the pickle in one stream before. TorchScript's archives are
zips too, with modules in the pickle. Here the machine is our own and knows only what builds tensors, plain containers,
strings and numbers; whatever else a file asks for is refused by name. Tensors are views of the file mapped into memory, and
what else is made is counted against the bytes that asked for it: at most some hundred bytes of memory for each byte of a pickle.
Nothing that a pickle made is hashed, compared or printed before its type is known: a tuple nested a million deep overflows the
stack, and one that holds itself twice, level upon level, has no end.

Do not change a file while its tensors are in use.
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
from scoreflow_jax.user_paths import user_path

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

_WITH_CODE = {
    "torch_utils.persistence": "It is one of NVIDIA's networks (EDM, StyleGAN) with its Python code inside. In their repository "
    "import pickle, torch; torch.save(pickle.load(open(FILE, 'rb'))['ema'].state_dict(), 'weights.pth') writes its tensors alone",
}
"""What is said of files that are known to hold code, by the module that they ask for."""

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_LONGEST_LINE = 1000
_FREE = 10_000  # bytes that a pickle may copy without having them itself
_LARGEST_KEY = 2**60  # Python hashes larger ones by their remainder
_CONTAINER = 8  # bytes of a pickle that an empty container is worth
_PROTO = 0x80  # the first byte of a binary pickle
_BIG_ENDIAN = "written by a big-endian machine: save it anew on a little-endian one, as nearly all are"
_DAMAGE = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError, OSError, NotImplementedError,
    RuntimeError, MemoryError, struct.error, zipfile.BadZipFile, zlib.error,
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
    path = user_path(path)
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
    # TorchScript compresses its code, which is not read.
    if sum(e.file_size for e in entries.values() if e.compress_type == zipfile.ZIP_STORED) > len(view):
        raise TorchFileError("the archive's entries overlap, which PyTorch's never do: refused")
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
    keys = _Machine(stream, _no_storage).run()
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise ValueError("no list of the storages' keys")
    for key in keys:
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
        """A line; only names stand in lines, so none is long."""
        end = bytes(self._view[self._at : self._at + _LONGEST_LINE]).find(b"\n")
        if end < 0:
            raise ValueError("a line without an end")
        return self.read(end + 1)


class _Global(NamedTuple):
    """A name that a pickle asks for; never the thing itself."""

    module: str
    name: str


class _Storage(NamedTuple):
    """The numbers of a storage; None while only the kinds of the storages are being collected."""

    numbers: np.ndarray | None


class _DType(NamedTuple):
    """A NumPy dtype, of the one number that follows: learning rates are often NumPy's."""

    code: str


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
_DTYPE = ("numpy", "dtype")
_SCALARS = {("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar")}
_NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
_KNOWN = (
    _TENSORS
    | _FIRST_ARGUMENT
    | _CONTAINERS.keys()
    | _SCALARS
    | {_ENCODE, _DTYPE}
    | {("torch", name) for name in STORAGES}
)


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
        self._spent = self._start = 0

    def run(self) -> Any:
        """The object that the pickle describes."""
        self._start = self._source.tell()
        for opcode, argument, _ in pickletools.genops(self._source):  # type: ignore[arg-type]
            if opcode.name == "STOP":
                return self._pop()
            if opcode.name not in _OPERATIONS:
                raise TorchFileError(
                    f"the file's pickle has the operation {opcode.name}, which no tensor needs: refused"
                )
            _OPERATIONS[opcode.name](self, argument)
        raise EOFError("the pickle has no end")

    def _spend(self, count: int) -> None:
        """Counts what a few bytes can ask for again and again; no honest file copies more than it holds."""
        self._spent += count
        if self._spent > self._source.tell() - self._start + _FREE:
            raise TorchFileError("the file's pickle makes or copies containers over and over: refused")

    def _empty(self, container: Any) -> None:
        self._spend(_CONTAINER)
        self._push(container)

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
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is not a string")
        if (module, name) not in _KNOWN and module.split(".")[0] != "__torch__":
            advice = _WITH_CODE.get(
                module,
                "Save it anew with tensors, dicts, lists, strings and numbers only, as in torch.save(model.state_dict(), path)",
            )
            raise TorchFileError(
                f"the file asks for {module}.{name}, which is neither a tensor nor a plain container: refused. {advice}"
            )
        self._push(_Global(module, name))

    def _persistent(self) -> None:
        """('storage', class, key, device, number of elements[, view]) becomes the storage."""
        kind, cls, key, _, count, *view = self._pop()
        if kind != "storage" or not isinstance(cls, _Global) or cls.name not in STORAGES or view not in ([], [None]):
            raise ValueError("a storage of an unknown kind")
        if type(key) is not str or type(count) is not int:
            raise ValueError("a storage without a key or a count")
        self._push(_Storage(self._storage(STORAGES[cls.name], key, count)))

    def _call(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Global) or type(arguments) is not tuple:
            raise ValueError(f"the pickle calls a {type(function).__name__}")
        if function in _TENSORS:
            self._push(_tensor(*arguments[:4]))
        elif function in _FIRST_ARGUMENT:
            self._push(arguments[0])
        elif function in _CONTAINERS:
            self._make(_CONTAINERS[function], *arguments)
        elif function == _ENCODE and len(arguments) == 2 and type(arguments[0]) is str and arguments[1] == "latin1":
            self._spend(len(arguments[0]))
            self._push(arguments[0].encode("latin1"))
        elif function == _DTYPE and type(arguments[0]) is str and arguments[0] in _NUMBERS:
            self._push(_DType(arguments[0]))
        elif function in _SCALARS and isinstance(arguments[0], _DType) and type(arguments[1]) is bytes:
            (number,) = np.frombuffer(arguments[1], f"<{arguments[0].code}")
            self._push(number.item())
        else:
            raise ValueError(f"the pickle calls {function.module}.{function.name}")

    def _make(self, container: Callable[..., Any], items: Any = ()) -> None:
        """A dict of pairs, a tuple, or a set."""
        if type(items) not in (list, tuple):
            raise ValueError(f"a container of a {type(items).__name__}")
        self._spend(len(items) + _CONTAINER)
        if container is not tuple:
            pairs = container is dict
            if pairs and not all(type(item) in (list, tuple) and len(item) == 2 for item in items):
                raise ValueError("a dict of something else than pairs")
            _keys([item[0] for item in items] if pairs else items)
        self._push(container(items))

    def _new_object(self) -> None:
        arguments, cls = self._pop(), self._pop()
        if not isinstance(cls, _Global) or (cls.module, cls.name) in _KNOWN or arguments != ():
            raise ValueError("the pickle makes an object that is not a TorchScript module")
        self._push(_Module())

    def _build(self) -> None:
        """Attributes: those of a module are kept, those of an OrderedDict (state_dict's versions) are not."""
        state, target = self._pop(), self._stack[-1]
        if isinstance(target, _DType) and type(state) is tuple and type(state[1]) is str and state[1] in ("<", "|"):
            return  # its byte order
        if not isinstance(target, dict) or not isinstance(state, dict):
            raise ValueError(f"the pickle sets attributes of a {type(target).__name__}")
        if isinstance(target, _Module):
            self._spend(len(state))
            target.update(state)

    def _memoize(self, index: int) -> None:
        self._memo[index] = self._stack[-1]


def _keys(items: Any) -> list[Any]:
    """The items, if all are strings, bytes, None or integers too small to be made to collide."""
    for item in items:
        if type(item) not in (str, bytes, int, bool, type(None)) or (type(item) is int and abs(item) >= _LARGEST_KEY):
            raise ValueError(f"a key of type {type(item).__name__}")
    return items


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> np.ndarray | None:
    """A view of a storage."""
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without a storage")
    if not (type(offset) is int and _are_counts(size) and _are_counts(stride) and len(size) == len(stride)):
        raise ValueError("a tensor whose size, stride or offset are not counts")
    if (numbers := storage.numbers) is None:
        return None
    if 0 in size:
        return np.zeros(size, numbers.dtype)
    count = 1
    for n in size:
        count *= n
        if count > len(numbers):
            raise ValueError(f"a tensor of at least {count} numbers on a storage of {len(numbers)}")
    steps = tuple(n * numbers.itemsize for n in stride)
    view = np.ndarray(size, numbers.dtype, buffer=numbers, offset=offset * numbers.itemsize, strides=steps)
    view.flags.writeable = False
    return view


def _are_counts(values: Any) -> bool:
    return type(values) is tuple and len(values) <= 32 and all(type(n) is int and 0 <= n < 2**62 for n in values)


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
    "EMPTY_LIST": lambda m, _: m._empty([]),
    "EMPTY_DICT": lambda m, _: m._empty({}),
    "EMPTY_SET": lambda m, _: m._empty(set()),
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
