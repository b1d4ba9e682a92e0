"""Points of a low-dimensional density, read from a table: a file of text or arrays whose columns are coordinates.

Every column is standardized by mean and standard deviation of the training rows, so that a network sees numbers of order 1
whatever the units; `Units` goes back. A row is held out or not by a hash of its own coordinates: rows that are added change
nothing for the others, and equal points are on one side.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int32, UInt64

from scoreflow_jax.data.base import SKETCH, DataSource, DataSpec, Example, Examples
from scoreflow_jax.data.table_files import Columns, number, read_table, say
from scoreflow_jax.errors import UserError
from scoreflow_jax.settings.data import DataSettings
from scoreflow_jax.user_paths import user_path

LABELS = ("label", "labels")
"""Names of the column of classes where `config.data.label` gives none."""

_NAMED = 5  # skipped rows in a warning


@dataclasses.dataclass(frozen=True)
class Units:
    """Turns standardized coordinates back into the table's own: own = shift + scale * standardized.

    Attributes:
        columns: names of the coordinates.
        shift, scale: a number for each.
    """

    columns: tuple[str, ...]
    shift: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Units":
        """Reads the units from a table's `facts`.

        Raises:
            KeyError, TypeError, ValueError: they are not a table's.
        """
        names = tuple(str(name) for name in facts["columns"])
        shift, scale = (tuple(float(v) for v in facts[name]) for name in ("shift", "scale"))
        if not len(names) == len(shift) == len(scale):
            raise ValueError("columns, shift and scale have different lengths")
        return cls(names, shift, scale)

    @property
    def log_volume(self) -> float:
        """sum log scale: a log density of standardized points less this is one in the table's own units."""
        return sum(math.log(s) for s in self.scale)

    def own(self, points: Float[np.ndarray, "*batch dimension"]) -> Float[np.ndarray, "*batch dimension"]:
        """Standardized points in the table's own units, float64: an offset may be large, as that of times in seconds is."""
        return np.asarray(points, np.float64) * np.asarray(self.scale) + np.asarray(self.shift)

    def standardized(self, points: Float[np.ndarray, "*batch dimension"]) -> Float[np.ndarray, "*batch dimension"]:
        """The inverse of `own`, float32."""
        return ((np.asarray(points, np.float64) - np.asarray(self.shift)) / np.asarray(self.scale)).astype(np.float32)


class Table(DataSource):
    """The points of one split of a table, standardized; see `facts` for shift and scale."""

    def __init__(self, split: str, settings: DataSettings) -> None:
        """Reads the file.

        Args:
            split: "train" or "test".
            settings: path, columns, label, test_share, strict and units of `config.data`.

        Raises:
            UserError: no path, no such file, a column that is not there, holds no numbers or is constant, a row that cannot be
                used under strict, or no rows in this split.
        """
        if settings.path is None:
            raise UserError(
                "no table is given: --config.data.path=FILE, such as a .csv, .npz or .parquet with a column for each coordinate"
            )
        table = read_table(user_path(settings.path), _label_names(settings))
        columns = _chosen_columns(table, settings)
        values = table.values[:, [table.names.index(name) for name in columns]]
        usable = _usable(table, columns, values, settings.strict)
        values = values[usable]
        self.class_names, labels = _classes(table, usable)
        hashes = _hashes(values)
        out = hashes < np.uint64(settings.test_share * 2.0**64)
        units = _units(columns, values[~out], settings, table.path)
        here = out == (split == "test")
        if not here.any():
            raise UserError(
                f"no rows of {table.path} are in the split {split!r}: config.data.test_share={settings.test_share:g} holds "
                f"out a part of its {len(values)} usable rows by their hash. Add rows, or change that share"
            )
        self._points, self._labels = units.standardized(values[here]), labels[here]
        classes = len(self.class_names)
        self.spec = DataSpec(shape=(len(columns),), num_classes=classes if classes > 1 else 0, levels=0)
        self.facts: dict[str, Any] = {
            "kind": "table",
            **{name: list(value) for name, value in dataclasses.asdict(units).items()},
            "held_out": f"{settings.test_share:g} of the rows, by a hash of their coordinates",
            "sketch": [f"{h:016x}" for h in np.sort(hashes)[:SKETCH].tolist()],
        }

    def __len__(self) -> int:
        """The number of points."""
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        """One point."""
        return {"image": self._points[index], "label": self._labels[index]}

    def read(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """Several points."""
        indices = np.asarray(indices, np.int64)
        return {"image": self._points[indices], "label": self._labels[indices]}

    def labels(self) -> Int32[np.ndarray, " examples"]:
        """All labels."""
        return self._labels


def _label_names(settings: DataSettings) -> tuple[str, ...]:
    """Names that the column of classes may have."""
    return LABELS if settings.label is None else (settings.label,)


def _chosen_columns(table: Columns, settings: DataSettings) -> tuple[str, ...]:
    """The coordinates: those that the config names, those of the run in hand, or all that hold numbers."""
    asked = tuple(map(str, settings.columns)) or tuple(settings.units.get("columns", ()))
    listed = ", ".join(table.names) or "none"
    for name in asked:
        if name not in table.names:
            raise UserError(
                f"{table.path} has no column {name!r} of numbers, its columns are {listed}: correct config.data.columns"
            )
        if table.mostly_text[table.names.index(name)]:
            raise UserError(
                f"column {name!r} of {table.path} holds text, expected numbers: correct config.data.columns"
            )
    if len(set(asked)) < len(asked):
        raise UserError(f"config.data.columns is {asked}, expected different names")
    if settings.label is not None and table.labels is None:
        raise UserError(
            f"{table.path} has no column {settings.label!r}, its columns are {listed}: correct config.data.label"
        )
    if asked:
        return asked
    text = [name for name, t in zip(table.names, table.mostly_text, strict=True) if t]
    numeric = tuple(name for name in table.names if name not in text)
    if not numeric:
        raise UserError(f"{table.path} has no column of numbers besides the label, its columns are {listed}")
    if text:
        say(
            table.path,
            f"{table.path}: columns {', '.join(text)} hold text and are left out; one may be config.data.label",
        )
    return numeric


def _usable(
    table: Columns, chosen: tuple[str, ...], values: Float64[np.ndarray, "rows columns"], strict: bool
) -> Bool[np.ndarray, " rows"]:
    """Rows of finite numbers with a label; the others are named, or refused under strict."""
    bad = ~np.isfinite(values)
    unlabelled = np.zeros(len(values), bool) if table.labels is None else table.labels == ""
    skipped = np.flatnonzero(bad.any(axis=1) | unlabelled).tolist()
    reasons = [
        (
            table.lines[i],
            "no label" if not bad[i].any() else f"column {chosen[int(np.argmax(bad[i]))]!r} holds no finite number",
        )
        for i in skipped[: _NAMED + 1]
    ]
    reasons = sorted([*reasons, *table.ragged[: _NAMED + 1]])
    count = len(skipped) + len(table.ragged)
    if count:
        more = f", and {count - _NAMED} more" if count > _NAMED else ""
        listed = "; ".join(f"{table.row_word} {line}: {reason}" for line, reason in reasons[:_NAMED]) + more
        if strict:
            raise UserError(
                f"{count} rows of {table.path} cannot be used ({listed}): correct them, or unset config.data.strict"
            )
        say(table.path, f"{count} of {len(values) + len(table.ragged)} rows of {table.path} are skipped: {listed}")
    if count == len(values) + len(table.ragged):
        raise UserError(f"{table.path} has no row of finite numbers in {', '.join(chosen)}: expected at least two")
    usable = np.ones(len(values), bool)
    usable[skipped] = False
    return usable


def _classes(table: Columns, usable: Bool[np.ndarray, " rows"]) -> tuple[tuple[str, ...], Int32[np.ndarray, " usable"]]:
    """Names of the classes in order, whole numbers by value and others by letters, and the number of each usable row."""
    if table.labels is None:
        return (), np.zeros(int(usable.sum()), np.int32)
    found, which = np.unique(table.labels[usable], return_inverse=True)
    try:
        values = [number(str(text)) for text in found]
    except ValueError:
        return tuple(map(str, found)), which.astype(np.int32)
    if not all(math.isfinite(v) and v == int(v) for v in values):
        raise UserError(
            f"the labels of {table.path} are real numbers, expected classes: integers or text. Name another config.data.label"
        )
    names = sorted({int(v) for v in values})  # 1 and 1.0 are one class
    order = np.asarray([names.index(int(v)) for v in values], np.int32)
    return tuple(map(str, names)), order[which] if len(names) > 1 else np.zeros(len(which), np.int32)


def _hashes(values: Float64[np.ndarray, "rows columns"]) -> UInt64[np.ndarray, " rows"]:
    """A number for each row that changes with nothing but its coordinates."""
    rows = values + 0.0  # -0.0 becomes 0.0: equal numbers have equal bytes
    hashes = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows.astype("<f8")]
    return np.frombuffer(b"".join(hashes), "<u8").astype(np.uint64)


def _units(
    columns: tuple[str, ...], train: Float64[np.ndarray, "rows columns"], settings: DataSettings, path: str
) -> Units:
    """Those of the run in hand, or mean and standard deviation of the training rows."""
    if settings.units:
        units = Units.of(settings.units)
        if units.columns != columns:
            raise UserError(
                f"the run was trained on the columns {', '.join(units.columns)}, config.data.columns of {path} are "
                f"{', '.join(columns)}: give the same, or another --workdir"
            )
        return units
    if not len(train):
        raise UserError(
            f"{path} has no training rows: add rows, or lower config.data.test_share={settings.test_share:g}"
        )
    for name, column in zip(columns, train.T, strict=True):
        if np.ptp(column) == 0:
            raise UserError(
                f"column {name!r} of {path} is constant ({column[0]:g} in every training row), expected one that varies: "
                "leave it out of config.data.columns"
            )
    shift, scale = train.mean(axis=0), train.std(axis=0)
    return Units(columns, tuple(shift.tolist()), tuple(scale.tolist()))
