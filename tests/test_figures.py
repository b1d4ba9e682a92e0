"""Pictures: every pixel where it belongs."""

import numpy as np
import pytest
from PIL import Image

from scoreflow_jax import figures


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
