"""Figures of many runs as one table: means over seeds, differences from a baseline, and which comparisons are decided.

Runs of one seed share their data order, initial parameters and noise, so that differences are taken seed by seed. Every ± is
half of a 95 % interval by Student's t, which with three seeds is 4.3 standard errors, not 2. A table has dozens of differences,
and some look large by chance: "different" is called only what a comparison shows that the config had fixed beforehand, over at
least `SEEDS` seeds, by a paired t-test whose p-value is corrected for the number of such comparisons (Holm 1979).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from scoreflow_jax.evaluation.parts import PARTS

SEEDS = 8
"""Number of seeds that a comparison must have before it is decided."""

LEVEL = 0.05
"""The corrected p-value under which a comparison is called different."""

_COVERAGE = 0.95


COLUMNS = tuple(column for part in PARTS.values() for column in part.columns)
"""What a table may have; columns without any figure are left out."""

_OF_COUNT = ("frechet_distance",)  # of fewer images it is larger

Figures = Mapping[str, Any]
"""The figures of one run: numbers by field, and perhaps "along_t", a number for each time."""


def figures_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a run, of the report of its evaluation."""
    found: dict[str, Any] = {}
    for name, part in PARTS.items():
        if name in report:
            found |= part.for_study(report[name])
    return found


class Mean(NamedTuple):
    """A mean over seeds, half the width of its 95 % interval, NaN for one seed, and the number of seeds."""

    value: float
    half: float
    count: int


class Comparison(NamedTuple):
    """What a study is to decide, fixed before it is run.

    Attributes:
        cell, against: rows.
        figure: a field of `COLUMNS`.
    """

    cell: str
    against: str
    figure: str


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and t std / sqrt(n), with n - 1 degrees of freedom of both std and t."""
    n = len(values)
    half = math.nan
    if n > 1:
        t = float(scipy.stats.t.ppf(0.5 + 0.5 * _COVERAGE, n - 1))
        half = t * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Mean(float(np.mean(values)), half, n)


def paired(ours: Sequence[Figures], theirs: Sequence[Figures], field: str) -> list[float]:
    """Differences of a figure, seed by seed, where both runs have it.

    Args:
        ours: figures of a row's runs, in the order of the seeds.
        theirs: those of the row to compare with.
        field: whose figure.
    """
    both = [(a.get(field), b.get(field)) for a, b in zip(ours, theirs, strict=False)]
    return [a - b for a, b in both if isinstance(a, float) and isinstance(b, float)]


def corrected(p_values: Sequence[float]) -> list[float]:
    """Holm's: the k-th smallest of n times n - k + 1, none less than one before it; NaN, not measured yet, counts as 1."""
    known = [1.0 if math.isnan(p) else p for p in p_values]
    found, least = [1.0] * len(known), 0.0
    for place, i in enumerate(sorted(range(len(known)), key=known.__getitem__)):
        least = max(least, min(1.0, (len(known) - place) * known[i]))
        found[i] = least
    return found


def p_value(differences: Sequence[float]) -> float:
    """Two-sided, of a paired t-test; NaN where there is no scatter to hold a mean against."""
    if len(differences) < 2 or np.std(differences) == 0:
        return math.nan
    return float(scipy.stats.ttest_1samp(differences, 0.0).pvalue)


def table(rows: Mapping[str, Sequence[Figures]], why: Mapping[str, Mapping[str, str]], *, first: int) -> str:
    """A line for each row: mean and interval over its runs, or why there is no figure.

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
    """Differences from the baseline, figure by figure and seed by seed, with their intervals: none of them is a verdict."""
    lines = [["against " + baseline, *(c.words.format(first="few") for c in COLUMNS)]]
    for name, runs in rows.items():
        if name == baseline:
            continue
        cells = [name]
        for column in COLUMNS:
            values = paired(runs, rows[baseline], column.field)
            if values and column.field in _OF_COUNT and _count(runs) != _count(rows[baseline]):
                cells.append("another n")
                continue
            cells.append(_shown(mean_of(values), "+" + column.style) if values else "-")
        lines.append(cells)
    used = [i for i in range(len(lines[0])) if i == 0 or any(line[i] != "-" for line in lines[1:])]
    return _markdown([[line[i] for i in used] for line in lines])


def decided(rows: Mapping[str, Sequence[Figures]], comparisons: Mapping[str, Comparison]) -> str:
    """The comparisons that were fixed beforehand: difference, p-value, and what may be said."""
    values = {name: paired(rows[c.cell], rows[c.against], c.figure) for name, c in comparisons.items()}
    p_values = corrected([p_value(v) for v in values.values()])
    styles = {column.field: (column.words.format(first="few"), column.style) for column in COLUMNS}
    lines = [["fixed beforehand", "figure", "difference", "seeds", "p, corrected", ""]]
    for (name, comparison), p in zip(comparisons.items(), p_values, strict=True):
        words, style = styles[comparison.figure]
        count = len(values[name])
        shown = _shown(mean_of(values[name]), "+" + style) if count else "-"
        if count < SEEDS:
            verdict = f"not decided: {count} of {SEEDS} seeds"
        else:
            verdict = "different" if p < LEVEL else "no difference shown"
        lines.append(
            [f"{name}: {comparison.cell} less {comparison.against}", words, shown, str(count), f"{p:.2g}", verdict]
        )
    return _markdown(lines)


def along_t(rows: Mapping[str, Sequence[Figures]], baseline: str, times: Sequence[float]) -> dict[str, list[Mean]]:
    """Takes, for each other row, the mean difference of "along_t" from the baseline's at each time, seed by seed.

    Args:
        rows: name of a row to the figures of its runs.
        baseline: the name of a row.
        times: at which "along_t" was measured.
    """
    found: dict[str, list[Mean]] = {}
    for name, runs in rows.items():
        both = [
            (a["along_t"], b["along_t"])
            for a, b in zip(runs, rows[baseline], strict=False)
            if "along_t" in a and "along_t" in b
        ]
        if both and name != baseline:
            found[name] = [mean_of([a[i] - b[i] for a, b in both]) for i in range(len(times))]
    return found


def table_along_t(found: Mapping[str, Sequence[Mean]], baseline: str, times: Sequence[float], every: int = 4) -> str:
    """Formats the differences that `along_t` found as a table, at every so many times.

    Args:
        found: by the names of the rows.
        baseline: the name of the row that was subtracted.
        times: all of them.
        every: a column for each so many of these.
    """
    shown = range(0, len(times), every)
    lines = [[f"held-out error less that of {baseline}, at t =", *(f"{times[i]:.2f}" for i in shown)]]
    lines += [[name, *(_shown(means[i], "+.4f") for i in shown)] for name, means in found.items()]
    return _markdown(lines)


def _count(runs: Sequence[Figures]) -> set[Any]:
    return {figures.get("images") for figures in runs}


def _shown(mean: Mean, style: str) -> str:
    return f"{mean.value:{style}}" + (f" ± {mean.half:{style.removeprefix('+')}}" if math.isfinite(mean.half) else "")


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = lines
    return "\n".join(["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rest)])
