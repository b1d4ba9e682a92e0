"""Pictures: every pixel where it belongs."""

import numpy as np
import pytest
from PIL import Image

from scoreflow_jax import figures
from scoreflow_jax.figures import Panel


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_shows_each_image_in_order_enlarged_by_a_whole_factor(tmp_path, channels):
    images = np.linspace(-1, 1, 6).reshape(6, 1, 1, 1) * np.ones((6, 8, 8, channels))
    figures.save_grid(tmp_path / "grid.png", images, columns=3)
    picture = np.asarray(Image.open(tmp_path / "grid.png"))
    assert picture.shape == (2 * 42 + 2, 3 * 42 + 2, 3)
    for i in range(6):
        y, x = 2 + (i // 3) * 42, 2 + (i % 3) * 42
        assert np.all(picture[y : y + 40, x : x + 40] == round(127.5 * np.linspace(-1, 1, 6)[i] + 127.5))
    assert np.all(picture[:2] == 255)


def test_large_images_keep_their_size(tmp_path):
    figures.save_grid(tmp_path / "g.png", np.zeros((1, 64, 48, 3)), columns=4)
    assert Image.open(tmp_path / "g.png").size == (48 + 4, 64 + 4)


def test_captions_and_heads_get_room_of_their_own(tmp_path):
    rows = [-np.ones((2, 8, 8, 1))] * 2
    figures.save_rows(tmp_path / "plain.png", rows)
    figures.save_rows(tmp_path / "text.png", rows, captions=["class 3", "class 4"], heads=["a very long head", "b"])
    plain, text = (np.asarray(Image.open(tmp_path / n)) for n in ("plain.png", "text.png"))
    assert np.sum(np.all(text == 0, axis=-1)) == np.sum(np.all(plain == 0, axis=-1))  # no tile is covered
    assert np.any((text != 255) & (text != 0))  # ink


def test_panels_of_a_line_stand_side_by_side_under_their_titles(tmp_path):
    dark, light = -np.ones((2, 8, 8, 1)), np.zeros((1, 8, 8, 1))
    lines = [[Panel([dark], "left"), Panel([light], "a title longer than its only tile")], [Panel([dark, light])]]
    figures.save_panels(tmp_path / "p.png", lines)
    picture = np.asarray(Image.open(tmp_path / "p.png"))[:, :, 0]
    tiles = {grey: boxes(picture == grey) for grey in (0, 128)}
    (first, left), (_, same_line), (second, _), (third, _) = tiles[0][0], tiles[128][0], tiles[0][2], tiles[128][1]
    assert same_line > left + 42
    assert (tiles[0][1][0], tiles[128][0][0]) == (first, first)
    assert second > first + 40
    assert third == second + 42
    assert np.any(picture[14 : first - 2] < 128)  # ink of the titles
    assert np.all(picture[:, -14:] == 255)


def boxes(mask):
    """Upper left corners of tiles of 40 pixels, from above and from the left."""
    found = np.lib.stride_tricks.sliding_window_view(mask, (40, 40)).all(axis=(2, 3))
    return [(int(y), int(x)) for y, x in np.argwhere(found)]


def test_a_line_that_is_too_wide_goes_on_below(tmp_path):
    most = figures.most_columns((256, 256, 3))
    wide = Panel([np.zeros((most, 256, 256, 3))], captions=["twenty-four characters.."], heads=["t=0.00"] * most)
    figures.save_panels(tmp_path / "p.png", [[wide, wide]])
    width, height = Image.open(tmp_path / "p.png").size
    assert 3000 < width <= figures.MAXIMAL_WIDTH
    assert 2 * 256 < height < 3 * 256


def test_text_grows_with_the_images(tmp_path):
    tops = []
    for side in (40, 400):
        figures.save_rows(tmp_path / "p.png", [-np.ones((1, side, side, 1))], heads=["a"])
        tops.append(Image.open(tmp_path / "p.png").height - side)
    assert tops == [15 + 8, 48 + 8]


def test_what_the_font_lacks_is_escaped_and_never_an_empty_box(tmp_path):
    assert all(map(figures.can_draw, ("cat", "кошка", "γάτα", "é", "e\u0301", "√α z₀", "a…")))
    assert not any(map(figures.can_draw, ("猫", "고양이", "बिल्ली", "a\nb", "\udcff")))
    row = [np.zeros((1, 8, 8, 1))]
    pictures = []
    for caption in ("猫 cat\n", "\\u732b cat\\n"):
        figures.save_rows(tmp_path / "c.png", row, captions=[caption])
        pictures.append(np.asarray(Image.open(tmp_path / "c.png")))
    np.testing.assert_array_equal(*pictures)


def test_right_to_left_scripts_are_escaped_where_pillow_cannot_order_them(monkeypatch):
    figures._has_glyph.cache_clear()
    monkeypatch.setattr(figures.features, "check", lambda name: False)
    assert not figures.can_draw("قط")
    figures._has_glyph.cache_clear()
    monkeypatch.setattr(figures.features, "check", lambda name: True)
    assert figures.can_draw("قط")
