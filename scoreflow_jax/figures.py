"""Pictures as PNG: grids, and strips with captions. Pixels are enlarged by whole factors, so that 8x8 images can be seen."""

import pathlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from scoreflow_jax.pixels import to_pixels
from scoreflow_jax.typing import HostImages

MINIMAL_TILE = 40  # smaller images are enlarged to at least this many screen pixels
_GAP = 2  # screen pixels between tiles
_FONT_SIZE = 13
_INK, _PAPER = (32, 32, 32), (255, 255, 255)


def save_grid(path: pathlib.Path, images: HostImages, *, columns: int) -> None:
    """Draws images in rows of `columns`, in order.

    Args:
        path: of the PNG.
        images: in [-1, 1], with 1 or 3 channels.
        columns: images in a row.
    """
    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    save_rows(path, rows)


def save_rows(
    path: pathlib.Path,
    rows: list[HostImages],
    *,
    captions: list[str] | None = None,
    heads: list[str] | None = None,
) -> None:
    """Draws rows of images, with a caption left of each row and a head over each column where given.

    Args:
        path: of the PNG.
        rows: images in [-1, 1], one array a row, all of one size.
        captions: one for each row.
        heads: one for each column.
    """
    font = ImageFont.load_default(size=_FONT_SIZE)
    tiles = [[_tile(image) for image in to_pixels(row)] for row in rows]
    height, width = tiles[0][0].shape[:2]
    columns = max(len(row) for row in tiles)
    cell = max([width, *(int(font.getlength(head)) + 3 * _GAP for head in heads or [])])
    pitch = cell + _GAP
    left = max((int(font.getlength(text)) for text in captions or []), default=-_GAP * 4) + _GAP * 4
    top = _FONT_SIZE + _GAP * 3 if heads else 0
    size = (left + columns * pitch + _GAP, top + len(rows) * (height + _GAP) + _GAP)
    canvas = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(canvas)
    for c, head in enumerate(heads or []):
        draw.text((left + _GAP + c * pitch + cell / 2, _GAP), head, _INK, font, anchor="ma")
    for r, row in enumerate(tiles):
        y = top + _GAP + r * (height + _GAP)
        if captions:
            draw.text((_GAP * 2, y + height / 2), captions[r], _INK, font, anchor="lm")
        for c, tile in enumerate(row):
            canvas.paste(Image.fromarray(tile), (left + _GAP + c * pitch + (cell - width) // 2, y))
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def _tile(pixels: UInt8[np.ndarray, "height width channel"]) -> UInt8[np.ndarray, "height2 width2 3"]:
    """One image as RGB, enlarged by a whole factor where it is small."""
    factor = max(1, -(-MINIMAL_TILE // max(pixels.shape[:2])))
    enlarged = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    return np.broadcast_to(enlarged, (*enlarged.shape[:2], 3)) if pixels.shape[-1] == 1 else enlarged
