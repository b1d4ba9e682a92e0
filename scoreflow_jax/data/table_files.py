"""A csv or npz file as named columns of numbers, and one of labels."""

import csv
import dataclasses
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float64

from scoreflow_jax.errors import UserError, first_line

_DELIMITERS = ",;\t"
_CHUNK = 16_384  # rows held as text at a time
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
        path: a .csv (comma, semicolon or tab between cells, with a header line or without) or an .npz (all coordinates in one
            array (rows, columns) called x, data or otherwise the only one, and labels in an array besides; or an array a column).
        label: names of the column of labels; the first that is there is it.

    Raises:
        UserError: no such file, another kind of file, or one that cannot be read.
    """
    readers = {".csv": _read_csv, ".npz": _read_npz}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path} is no table by its name: expected a file such as points.csv or points.npz")
    if not path.is_file():
        raise UserError(f"{path} is not a file: give a table as config.data.path")
    table = readers[path.suffix.lower()](path, label)
    if not table.lines:
        raise UserError(f"{path} holds no rows: expected at least two")
    return table


def _read_csv(path: pathlib.Path, label: tuple[str, ...]) -> Columns:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            delimiter = _delimiter(file.readline())
            file.seek(0)
            return _parse(path, csv.reader(file, delimiter=delimiter, skipinitialspace=True), label)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path} ({first_line(error)}): expected a csv file in UTF-8") from error


def _delimiter(line: str) -> str:
    """The most frequent of them in the first line; the comma where there is none."""
    return max(_DELIMITERS, key=line.count)


def _parse(path: pathlib.Path, reader: Any, label: tuple[str, ...]) -> Columns:
    """Rows of cells as columns; converted chunk by chunk, since a cell as text takes many times the memory of a number."""
    rows = ((reader.line_num, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row))
    first = next(rows, None)
    if first is None:
        raise UserError(f"{path} is empty: expected rows of numbers")
    header = not any(_is_number(cell) for cell in first[1])
    names = first[1] if header else [str(i + 1) for i in range(len(first[1]))]
    _check_names(path, names)
    where = next((names.index(name) for name in label if name in names), None)
    kept = [i for i, name in enumerate(names) if name and i != where]  # pandas writes an index, a column without a name
    ragged: list[tuple[int, str]] = []
    lines: list[int] = []
    numbers, labels = [np.zeros((0, len(kept)))], [np.zeros(0, str)]
    counts = np.zeros((len(kept), 2), int)
    for chunk in _chunks(rows if header else itertools.chain([first], rows), len(names), ragged):
        lines += [line for line, _ in chunk]
        cells = list(zip(*(row for _, row in chunk), strict=True))
        found = [_numbers(cells[i]) for i in kept]
        numbers.append(np.stack([f[0] for f in found], axis=1) if found else np.zeros((len(chunk), 0)))
        counts += np.asarray([f[1:] for f in found], int).reshape(-1, 2)
        labels.append(np.asarray([] if where is None else cells[where], str))
    mostly_text = tuple(bool(2 * text > filled) for text, filled in counts)
    stacked = None if where is None else np.concatenate(labels)
    kept_names = tuple(names[i] for i in kept)
    return Columns(str(path), kept_names, np.concatenate(numbers), mostly_text, stacked, lines, "line", ragged)


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


def _numbers(cells: tuple[str, ...]) -> tuple[Float64[np.ndarray, " rows"], int, int]:
    """float64, NaN for what is no number; how many cells are text, and how many hold anything."""
    try:
        return np.asarray(cells, np.float64), 0, len(cells)
    except ValueError:
        known = [_is_number(cell) for cell in cells]
        filled = sum(map(bool, cells))
        values = np.asarray([float(cell) if k else np.nan for cell, k in zip(cells, known, strict=True)])
        return values, filled - sum(known), filled


def _is_number(cell: str) -> bool:
    try:
        float(cell)
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
    where = next((name for name in label if name in arrays), None)
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


def _shapes(arrays: dict[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {a.shape} of {a.dtype}" for name, a in arrays.items()) or "nothing"
