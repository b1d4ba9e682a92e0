"""Figures of many runs as one table: means over seeds with their standard errors, and what differs from a baseline.

A difference under two standard errors is called none: with three seeds nothing finer can be told.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

NONE = "none"
_ERRORS = 2.0  # a difference has to be larger than so many standard errors


class Column(NamedTuple):
    """A figure of a row.

    Attributes:
        field: its name in the figures of a run.
        words: over the column.
        style: how it is printed.
    """

    field: str
    words: str
    style: str


COLUMNS = (
    Column("frechet_distance", "distance", ".3f"),
    Column("frechet_distance_first", "distance, first {first}", ".3f"),
    Column("recognized", "recognized", ".1%"),
    Column("nfe", "NFE", ".0f"),
    Column("bits_per_dim", "bits/dim", ".3f"),
    Column("seconds", "s per 1,000", ".1f"),
    Column("straightness", "straightness", ".4f"),
    Column("residual", "held-out error", ".4f"),
)
"""What a table may have; columns without any figure are left out."""

_OF_COUNT = ("frechet_distance",)  # of fewer images it is larger

Figures = Mapping[str, Any]
"""Of one run: numbers by field, and perhaps "along_t", a number for each time."""


class Mean(NamedTuple):
    """A mean over seeds and its standard error, NaN for one seed."""

    value: float
    error: float
    count: int


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and standard error, std / sqrt(n) with n - 1 degrees of freedom."""
    n = len(values)
    error = float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return Mean(float(np.mean(values)), error, n)


def difference(a: Mean, b: Mean) -> tuple[float, float, bool]:
    """a - b, its standard error, and whether it is larger than two of these; never with one seed."""
    error = math.hypot(a.error, b.error)
    gap = a.value - b.value
    return gap, error, abs(gap) > _ERRORS * error if math.isfinite(error) else False


def table(rows: Mapping[str, Sequence[Figures]], why: Mapping[str, Mapping[str, str]], *, first: int) -> str:
    """A line for each row: mean ± standard error over its runs, or why there is no figure.

    Args:
        rows: name of a row to the figures of its runs.
        why: for a row and a field, the reason that stands where a figure cannot.
        first: number of images of `frechet_distance_first`.
    """
    columns = [c for c in COLUMNS if any(c.field in figures for row in rows.values() for figures in row)]
    lines = [["", "n", *(c.words.format(first=first) for c in columns)]]
    for name, runs in rows.items():
        images = {str(figures.get("images", "")) for figures in runs}
        cells = [name, "/".join(sorted(images))]
        for column in columns:
            values = [figures[column.field] for figures in runs if isinstance(figures.get(column.field), float)]
            cells.append(_shown(mean_of(values), column.style) if values else why.get(name, {}).get(column.field, "-"))
        lines.append(cells)
    return _markdown(lines)


def differences(rows: Mapping[str, Sequence[Figures]], baseline: str) -> str:
    """What differs from the baseline, figure by figure."""
    lines = [["against " + baseline, *(c.words.format(first="few") for c in COLUMNS)]]
    for name, runs in rows.items():
        if name == baseline:
            continue
        cells = [name]
        for column in COLUMNS:
            ours, theirs = (_values(figures, column.field) for figures in (runs, rows[baseline]))
            if not ours or not theirs:
                cells.append("-")
                continue
            gap, error, real = difference(mean_of(ours), mean_of(theirs))
            if column.field in _OF_COUNT and _count(runs) != _count(rows[baseline]):
                cells.append("another n")
                continue
            cells.append(f"{gap:+{column.style}} ± {error:{column.style}}" if real else NONE)
        lines.append(cells)
    used = [i for i in range(len(lines[0])) if i == 0 or any(line[i] != "-" for line in lines[1:])]
    return _markdown([[line[i] for i in used] for line in lines])


def along_t(rows: Mapping[str, Sequence[Figures]], baseline: str, times: Sequence[float]) -> dict[str, list[Mean]]:
    """For each row the mean difference of "along_t" from the baseline at each time, with its standard error."""
    found: dict[str, list[Mean]] = {}
    base = [figures["along_t"] for figures in rows[baseline] if "along_t" in figures]
    for name, runs in rows.items():
        curves = [figures["along_t"] for figures in runs if "along_t" in figures]
        if not curves or not base:
            continue
        found[name] = []
        for i in range(len(times)):
            a, b = mean_of([c[i] for c in curves]), mean_of([c[i] for c in base])
            gap, error, _ = difference(a, b)
            found[name].append(Mean(gap, error if name != baseline else a.error, a.count))
    return found


def table_along_t(found: Mapping[str, Sequence[Mean]], baseline: str, times: Sequence[float], every: int = 4) -> str:
    """The same as a table, at every so many times."""
    shown = range(0, len(times), every)
    lines = [[f"held-out error less that of {baseline}, at t =", *(f"{times[i]:.2f}" for i in shown)]]
    for name, means in found.items():
        if name == baseline:
            continue
        cells = []
        for i in shown:
            mean = means[i]
            real = math.isfinite(mean.error) and abs(mean.value) > _ERRORS * mean.error
            cells.append(f"{mean.value:+.4f} ± {mean.error:.4f}" if real else NONE)
        lines.append([name, *cells])
    return _markdown(lines)


def _count(runs: Sequence[Figures]) -> set[Any]:
    return {figures.get("images") for figures in runs}


def _values(runs: Sequence[Figures], field: str) -> list[float]:
    return [figures[field] for figures in runs if isinstance(figures.get(field), float)]


def _shown(mean: Mean, style: str) -> str:
    return f"{mean.value:{style}}" + (f" ± {mean.error:{style}}" if math.isfinite(mean.error) else "")


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = lines
    return "\n".join(["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rest)])
