"""Curves of characters, for a terminal."""

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_GUTTER = 8  # characters left of the plot, for the scale
_LOG_RANGE = 10  # the highest over the lowest value, from which the scale is logarithmic


class Characters(NamedTuple):
    """What a plot is made of.

    Attributes:
        dots: the bit of each dot within a character, by row and column.
        drawn: the character of every sum of bits.
        wall, corner, floor: of the axes.
    """

    dots: tuple[tuple[int, ...], ...]
    drawn: str
    wall: str
    corner: str
    floor: str


BRAILLE = Characters(
    ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80)),
    " " + "".join(map(chr, range(0x2801, 0x2900))),
    "│",
    "└",
    "─",
)
ASCII = Characters(((1,), (2,)), " '.:", "|", "+", "-")


def characters_for(encoding: str | None) -> Characters:
    """Braille, or ASCII where the encoding lacks it or the locale is C.

    In that locale Python writes UTF-8 whatever the terminal reads, so the encoding alone does not tell.
    """
    if (os.environ.get("LC_ALL") or os.environ.get("LANG")) in ("C", "POSIX"):
        return ASCII
    try:
        "".join(BRAILLE[1:]).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BRAILLE


def draw_curve(
    x: Sequence[float],
    y: Sequence[float],
    *,
    names: tuple[str, str],
    characters: Characters,
    width: int = 60,
    height: int = 8,
) -> list[str]:
    """The lines of a plot, `height` and two more: the mean of y in each column of dots, joined by straight lines.

    Args:
        x, y: finite numbers, at least one, x ascending.
        names: of x and y.
        characters: to draw with.
        width, height: of the plot within its axes.
    """
    rows, columns = (n * dots for n, dots in zip((height, width), np.shape(characters.dots), strict=True))
    values, log = _means(x, y, columns), False
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low > 0 and high / low >= _LOG_RANGE:
        values, log = np.log(values), True
    levels = _levels(values, rows)
    bits = np.zeros((height, width), int)
    for column, level in enumerate(levels):
        before = levels[max(column - 1, 0)]
        for row in {level, *range(min(level, before + 1), max(level, before - 1) + 1)}:
            (line, dot), (place, side) = divmod(row, rows // height), divmod(column, columns // width)
            bits[line, place] |= characters.dots[dot][side]
    scale = {0: f"{high:.3g}", height - 1: f"{low:.3g}"} if high > low else {height // 2: f"{low:.3g}"}
    scale[height // 2 - 1] = names[1]
    if log:
        scale[height // 2] = "(log)"
    lines = [
        f"{scale.get(row, ''):>{_GUTTER}}{characters.wall}" + "".join(characters.drawn[b] for b in line)
        for row, line in enumerate(bits.tolist())
    ]
    first, last = f"{x[0]:,.0f}", f"{x[-1]:,.0f}"
    between = names[0].center(max(width - len(first) - len(last), len(names[0]) + 2))
    lines.append(" " * _GUTTER + characters.corner + characters.floor * width)
    lines.append(" " * (_GUTTER + 1) + first + between + last)
    return [line.rstrip() for line in lines]


def _means(x: Sequence[float], y: Sequence[float], columns: int) -> np.ndarray:
    """The mean of y in each column, NaN where there is none; no further than the last column that has one."""
    reach = max(x[-1] - x[0], 1e-9)
    where = np.rint((np.asarray(x) - x[0]) / reach * (columns - 1)).astype(int)
    counts, sums = np.bincount(where), np.bincount(where, weights=y)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _levels(values: np.ndarray, rows: int) -> list[int]:
    """The row of each column from the top, straight where a column has no value; in the middle if all are the same."""
    known = np.flatnonzero(np.isfinite(values))
    filled = np.interp(np.arange(len(values)), known, values[known])
    low, high = filled.min(), filled.max()
    if high == low:
        return [rows // 2] * len(filled)
    return np.rint((high - filled) / (high - low) * (rows - 1)).astype(int).tolist()


def draw_bar(share: float, width: int) -> str:
    """A bar of `width` characters, its brackets included; full only when all is done."""
    inside = max(width - 2, 1)
    done = math.floor(inside * min(max(share, 0.0), 1.0))
    return f"[{'#' * done}{'-' * (inside - done)}]"
