"""A file of text, of NumPy or of parquet as named columns of numbers, and one of labels."""

import csv
import dataclasses
import gzip
import importlib.util
import itertools
import pathlib
import sys
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from scoreflow_jax.errors import UserError, first_line

_DIALECTS = (
    (",", "."),
    (";", "."),
    ("\t", "."),
    (";", ","),
    ("\t", ","),
)  # delimiters and decimal signs, likelier ones first
_LOOKED_AT = 50  # rows by which a dialect is chosen
_CHUNK = 16_384  # rows held as text at a time
_warned: set[tuple[str, str]] = set()
_NO_VALUES = ("", "na", "n/a", "nan", "null", "none", "-", "?")  # what cells without a value hold
_MATRICES = ("x", "data")  # names under which an npz may hold all coordinates in one array


@dataclasses.dataclass(frozen=True)
class Columns:
    """What a file holds.

    Attributes:
        path: of the file, for messages.
        names: of the columns but the label's; without a header "1", "2", ...
        values: their numbers, NaN for what is none.
        mostly_text: columns of which more than half of the cells that hold anything are no numbers.
        labels: as text, "" where there is none; None without a column of labels.
        lines: where each row stands in the file.
        row_word: what `lines` counts: "line" of text, from 1, or "row" of an array, from 0.
        ragged: lines with another number of cells, which are left out, and why.
    """

    path: str
    names: tuple[str, ...]
    values: Float64[np.ndarray, "rows columns"]
    mostly_text: tuple[bool, ...]
    labels: np.ndarray | None
    lines: list[int]
    row_word: str
    ragged: list[tuple[int, str]] = dataclasses.field(default_factory=list)


def read_table(path: pathlib.Path, label: tuple[str, ...]) -> Columns:
    """Reads a table.

    Args:
        path: a .csv or .tsv, perhaps .gz (comma, semicolon or tab between cells, decimal points or commas, with a line of names
            or without); an .npz (all coordinates in one array (rows, columns) called x, data or otherwise the only one, and
            labels in an array besides; or an array a column); an .npy (rows, columns), or of named fields; or a .parquet.
        label: names of the column of labels; the first that is there is it, in any case of its letters.

    Raises:
        UserError: no such file, another kind of file, or one that cannot be read.
    """
    kind = pathlib.PurePath(path.name.lower().removesuffix(".gz")).suffix
    if kind not in _READERS or (path.suffix.lower() == ".gz" and _READERS[kind] is not _read_text):
        raise UserError(
            f"{path} is no table by its name: expected a file such as points.csv, .tsv, .csv.gz, .npz, .npy or .parquet"
        )
    if not path.is_file():
        raise UserError(f"{path} is not a file: give a table as config.data.path")
    table = _READERS[kind](path, label)
    if not table.lines:
        raise UserError(f"{path} holds no rows: expected at least two")
    return table


def _read_text(path: pathlib.Path, label: tuple[str, ...]) -> Columns:
    try:
        with _open(path) as file:
            lines = list(itertools.islice(file, _LOOKED_AT))
            delimiter, decimal = _dialect(lines)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
            return _parse(path, reader, label, decimal)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise UserError(f"cannot read {path} ({first_line(error)}): expected a table of text in UTF-8") from error


def _open(path: pathlib.Path) -> Any:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", newline="", encoding="utf-8-sig")
    return path.open(newline="", encoding="utf-8-sig")


def _dialect(lines: list[str]) -> tuple[str, str]:
    """The delimiter and decimal sign by which most rows are of one width and hold most numbers; of several that of more columns.

    `label;x` above `a;1,5` has one cell and then two where the comma divides: rows as wide as the first are none.
    """

    def score(dialect: tuple[str, str]) -> tuple[bool, float, int]:
        rows = [row for row in csv.reader(lines, delimiter=dialect[0], skipinitialspace=True) if row]
        alike = [row for row in rows if len(row) == len(rows[0])]
        cells = [cell.strip() for row in alike[1:] or alike for cell in row]
        numbers = sum(_is_number(cell, dialect[1]) for cell in cells)
        return 2 * len(alike) > len(rows) and numbers > 0, numbers / max(len(cells), 1), len(cells)

    return max(_DIALECTS, key=score)


def _parse(path: pathlib.Path, reader: Any, label: tuple[str, ...], decimal: str) -> Columns:
    """Rows of cells as columns; converted chunk by chunk, since a cell as text takes many times the memory of a number."""
    rows = ((reader.line_num, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row))
    ahead = list(itertools.islice(rows, _LOOKED_AT))
    if not ahead:
        raise UserError(f"{path} is empty: expected rows of numbers")
    header = _names_columns(path, [row for _, row in ahead], decimal)
    first, rest = ahead[0][1], itertools.chain(ahead[header:], rows)
    names = first if header else [str(i + 1) for i in range(len(first))]
    _check_names(path, names)
    where = _place_of(label, names)
    kept = [i for i, name in enumerate(names) if name and i != where]  # pandas writes an index, a column without a name
    ragged: list[tuple[int, str]] = []
    lines: list[int] = []
    numbers, labels = [np.zeros((0, len(kept)))], [np.zeros(0, str)]
    counts = np.zeros((len(kept), 2), int)
    for chunk in _chunks(rest, len(names), ragged):
        lines += [line for line, _ in chunk]
        cells = list(zip(*(row for _, row in chunk), strict=True))
        found = [_numbers(cells[i], decimal) for i in kept]
        numbers.append(np.stack([f[0] for f in found], axis=1) if found else np.zeros((len(chunk), 0)))
        counts += np.asarray([f[1:] for f in found], int).reshape(-1, 2)
        labels.append(np.asarray([] if where is None else cells[where], str))
    mostly_text = tuple(bool(2 * text > filled) for text, filled in counts)
    stacked = None if where is None else np.concatenate(labels)
    kept_names = tuple(names[i] for i in kept)
    return Columns(str(path), kept_names, np.concatenate(numbers), mostly_text, stacked, lines, "line", ragged)


def _names_columns(path: pathlib.Path, rows: list[list[str]], decimal: str) -> bool:
    """Whether the first row is one of names: it holds no number, or none where the rows below do, or counts the columns.

    pandas numbers the columns of an array from 0, so that its names are numbers too.
    """
    first, below = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    numbers = [_is_number(cell, decimal) for cell in first]
    if not any(numbers):
        return True
    named = [cell for cell, is_number in zip(first, numbers, strict=True) if is_number]
    counted = named == [str(i) for i in range(len(named))]
    for i, is_number in enumerate(numbers):
        column = [_is_number(row[i], decimal) for row in below]
        no_name = is_number or (first[i].casefold() in _NO_VALUES and not counted)  # a row may lack a value
        if not no_name and column and 2 * sum(column) > len(column):
            return True
    if not below or not counted:
        return False
    shown, fractions = ", ".join(first), [_has_fraction(row, decimal) for row in below]
    taken = 2 * sum(fractions) > len(fractions)
    what = (
        "names of the columns, as pandas numbers them"
        if taken
        else "a point: where it is names, give others than numbers"
    )
    say(str(path), f"the first line of {path}, {shown}, is taken for {what}")
    return taken


def _has_fraction(row: list[str], decimal: str) -> bool:
    return any(decimal in cell or "e" in cell.lower() for cell in row if _is_number(cell, decimal))


def _place_of(wanted: tuple[str, ...], names: Sequence[str]) -> int | None:
    """Where the first of the wanted names stands, else the first that differs by case alone."""
    for found in (list(names), [name.casefold() for name in names]):
        for name in wanted:
            if (same := name if found == list(names) else name.casefold()) in found:
                return found.index(same)
    return None


def _chunks(
    rows: Iterator[tuple[int, list[str]]], width: int, ragged: list[tuple[int, str]]
) -> Iterator[list[tuple[int, list[str]]]]:
    """Rows of `width` cells, some at a time; the others are put down in `ragged`."""
    chunk: list[tuple[int, list[str]]] = []
    for line, row in rows:
        if len(row) != width:
            ragged.append((line, f"{len(row)} cells, expected {width}"))
            continue
        chunk.append((line, row))
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _numbers(cells: tuple[str, ...], decimal: str) -> tuple[Float64[np.ndarray, " rows"], int, int]:
    """float64, NaN for what is no number; how many cells are text, and how many hold anything."""
    if decimal == "." and not any("_" in cell for cell in cells):
        try:
            return np.asarray(cells, np.float64), 0, len(cells)
        except ValueError:
            pass
    known = [_is_number(cell, decimal) for cell in cells]
    filled = sum(map(bool, cells))
    values = [number(cell, decimal) if k else np.nan for cell, k in zip(cells, known, strict=True)]
    return np.asarray(values), filled - sum(known), filled


def number(cell: str, decimal: str = ".") -> float:
    """The number that a cell holds. Python reads 1_1 as 11, which no table means.

    Raises:
        ValueError: it holds none.
    """
    if "_" in cell or (decimal == "," and "." in cell):
        raise ValueError(f"{cell!r} is no number")
    return float(cell.replace(",", ".", 1) if decimal == "," else cell)


def _is_number(cell: str, decimal: str = ".") -> bool:
    try:
        number(cell, decimal)
    except ValueError:
        return False
    return True


def _check_names(path: pathlib.Path, names: list[str]) -> None:
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path} has two columns {twice!r}: rename one")
    if not any(names):
        raise UserError(f"{path} begins with a line that names no column: expected names or numbers")


def _read_npz(path: pathlib.Path, label: tuple[str, ...]) -> Columns:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except Exception as error:  # a damaged zip raises almost anything
        raise UserError(f"cannot read {path} ({first_line(error)}): expected an npz of numbers") from error
    return _from_arrays(path, arrays, label)


def _read_npy(path: pathlib.Path, label: tuple[str, ...]) -> Columns:
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged header raises almost anything
        raise UserError(f"cannot read {path} ({first_line(error)}): expected an npy of numbers") from error
    fields = array.dtype.names
    return _from_arrays(path, {"data": array} if fields is None else {name: array[name] for name in fields}, label)


def _read_parquet(path: pathlib.Path, label: tuple[str, ...]) -> Columns:
    if importlib.util.find_spec("pyarrow") is None:
        raise UserError(
            f"{path} needs pyarrow, which is not installed: pip install pyarrow, or write the table as csv or npz"
        )
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        columns = {
            name: table[name].to_pylist() for name in table.column_names if not name.startswith("__index_level_")
        }
    except Exception as error:  # whatever Arrow runs into
        raise UserError(f"cannot read {path} ({first_line(error)}): expected a parquet file") from error
    where = _place_of(label, list(columns))
    arrays = {name: _array_of(values, as_text=i == where) for i, (name, values) in enumerate(columns.items())}
    return _from_arrays(path, arrays, label)


def _array_of(values: list[Any], *, as_text: bool) -> np.ndarray:
    """A column of numbers, of which None is NaN, or else of text, of which it is empty."""
    if all(value is None or isinstance(value, (int, float)) for value in values) and not as_text:
        whole = all(isinstance(value, int) for value in values)
        return np.asarray(values) if whole else np.asarray([np.nan if v is None else v for v in values], np.float64)
    return np.asarray(["" if value is None else str(value) for value in values])


def _from_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray], label: tuple[str, ...]) -> Columns:
    """One array of all coordinates, or one for each column, and perhaps labels."""
    place = _place_of(label, list(arrays))
    where = None if place is None else list(arrays)[place]
    labels = None if where is None else arrays.pop(where)
    columns = _matrix(path, arrays) or {name: a for name, a in arrays.items() if a.ndim == 1}
    if not columns:
        raise UserError(
            f"{path} holds {_shapes(arrays)}, expected an array (rows, columns), or one (rows,) for each column"
        )
    lengths = {len(a) for a in columns.values()} | ({len(labels)} if labels is not None and labels.ndim == 1 else set())
    if len(lengths) > 1 or (labels is not None and labels.ndim != 1):
        shown = arrays if where is None or labels is None else {**arrays, where: labels}
        raise UserError(f"{path} holds {_shapes(shown)}, expected as many labels as rows, in arrays of one length")
    text = tuple(bool(a.dtype.kind not in "fiub") for a in columns.values())
    numbers = [
        np.full(len(a), np.nan) if t else a.astype(np.float64) for a, t in zip(columns.values(), text, strict=True)
    ]
    rows = list(range(len(numbers[0])))
    texts = None if labels is None else np.asarray([str(v) for v in labels.tolist()])
    return Columns(str(path), tuple(columns), np.stack(numbers, axis=1), text, texts, rows, "row")


def _matrix(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """The columns of the one array that holds all coordinates, named 1, 2, ...; None where there is no such array."""
    flat = {name: a for name, a in arrays.items() if a.ndim == 2 and a.dtype.kind in "fiu"}
    named = [flat[name] for name in _MATRICES if name in flat]
    floats = [a for a in flat.values() if a.dtype.kind == "f"]
    if not named and len(floats) > 1:
        raise UserError(f"{path} holds {_shapes(flat)}: call the one that holds the points x or data")
    found = named or floats
    return {str(i + 1): column for i, column in enumerate(found[0].T)} if found else None


def say(path: str, text: str) -> None:
    """A warning about a table, once in a process: both splits read the file."""
    if (path, text) not in _warned:
        _warned.add((path, text))
        print(f"warning: {text}", file=sys.stderr)


_READERS = {
    ".csv": _read_text,
    ".tsv": _read_text,
    ".txt": _read_text,
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".parquet": _read_parquet,
}


def _shapes(arrays: dict[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {a.shape} of {a.dtype}" for name, a in arrays.items()) or "nothing"
