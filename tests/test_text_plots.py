"""Curves of characters: extremes, ends and means where they belong."""

import pytest

from scoreflow_jax.text_plots import ASCII, BRAILLE, characters_for, draw_bar, draw_curve

GUTTER = 9  # the scale and the wall


def draw(x, y, characters=BRAILLE, **size):
    return draw_curve(x, y, names=("step", "loss"), characters=characters, **size)


def dots(lines, characters, height):
    """The rows and columns of all dots."""
    rows, columns = len(characters.dots), len(characters.dots[0])
    found = set()
    for line, text in enumerate(lines[:height]):
        for place, character in enumerate(text[GUTTER:]):
            bits = characters.drawn.index(character)
            found |= {
                (line * rows + row, place * columns + column)
                for row in range(rows)
                for column in range(columns)
                if bits & characters.dots[row][column]
            }
    return found


@pytest.mark.parametrize(("characters", "rows", "columns"), [(BRAILLE, 32, 120), (ASCII, 16, 60)])
def test_extremes_and_ends_are_in_their_rows_and_columns(characters, rows, columns):
    """A tooth: lowest at a quarter of the way, highest at three quarters, half way between at both ends."""
    x = [float(i) for i in range(columns)]
    knots = {0: 2.0, columns // 4: 1.0, 3 * columns // 4: 3.0, columns - 1: 2.0}
    y = []
    for i in range(columns):
        left, right = max(k for k in knots if k <= i), min(k for k in knots if k >= i)
        share = (i - left) / max(right - left, 1)
        y.append(knots[left] + share * (knots[right] - knots[left]))
    lines = draw(x, y, characters)
    found = dots(lines, characters, 8)
    assert {c for r, c in found if r == 0} >= {3 * columns // 4}
    assert {c for r, c in found if r == rows - 1} >= {columns // 4}
    assert all(abs(c - 3 * columns // 4) < columns / 20 for r, c in found if r == 0)
    assert all(abs(c - columns // 4) < columns / 20 for r, c in found if r == rows - 1)
    assert {r for r, c in found if c == 0} <= {rows // 2 - 1, rows // 2}
    assert {c for _, c in found} == set(range(columns))
    assert lines[0].startswith(f"       3{characters.wall}")
    assert lines[3].startswith(f"    loss{characters.wall}")
    assert lines[7].startswith(f"       1{characters.wall}")
    assert "(log)" not in "".join(lines)
    assert lines[8] == " " * 8 + characters.corner + characters.floor * 60
    assert lines[9].split() == ["0", "step", str(columns - 1)]
    assert len(lines[9]) == GUTTER + 60


def test_a_wide_range_is_logarithmic():
    """An exponential is a straight line, from corner to corner."""
    lines = draw([float(i) for i in range(120)], [10 ** (2 - i / 40) for i in range(120)])
    assert lines[4].startswith("   (log)")
    found = dots(lines, BRAILLE, 8)
    assert {(0, 0), (31, 119)} <= found
    assert all(abs(row / 31 - column / 119) < 0.03 for row, column in found)
    assert "(log)" not in "".join(draw([0.0, 1.0, 2.0], [100.0, 1.0, 0.0]))  # zero has no logarithm


def test_the_points_of_a_column_are_averaged():
    """Five columns of 25 points; a spike of 4 among the 2's of the third raises its mean to 2.08."""
    x = [float(i) for i in range(125)]
    y = [2.0] * 62 + [4.0] + [2.0] * 62
    lines = draw(x, y, ASCII, width=5, height=4)
    counts = [sum(round(i / 124 * 4) == column for i in range(125)) for column in range(5)]
    assert lines[0].startswith(f"{2 + 2 / counts[2]:>8.3g}|")
    assert lines[3].startswith("       2|")
    assert {column for row, column in dots(lines, ASCII, 4) if row == 0} == {2}


def test_one_point_and_equal_values_are_a_dot_and_a_level_line():
    one = draw([7.0], [0.5])
    assert dots(one, BRAILLE, 8) == {(16, 0)}
    assert one[4].startswith("     0.5│")
    assert one[9].split() == ["7", "step", "7"]
    level = draw([1.0, 2.0], [0.0, 0.0])
    assert dots(level, BRAILLE, 8) == {(16, column) for column in range(120)}


def test_ascii_where_the_encoding_or_the_locale_asks_for_it(monkeypatch):
    monkeypatch.delenv("LC_ALL", raising=False)
    monkeypatch.setenv("LANG", "en_US.UTF-8")
    assert characters_for("utf-8") is BRAILLE
    assert characters_for("latin-1") is ASCII
    monkeypatch.setenv("LANG", "C")
    assert characters_for("utf-8") is ASCII
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    assert characters_for("utf-8") is BRAILLE
    assert all(c.isascii() for c in "".join(ASCII[1:]))


def test_a_bar_is_full_only_when_all_is_done():
    assert draw_bar(0.0, 12) == "[----------]"
    assert draw_bar(0.5, 12) == "[#####-----]"
    assert draw_bar(0.999, 12) == "[#########-]"
    assert draw_bar(1.0, 12) == draw_bar(7.0, 12) == "[##########]"
