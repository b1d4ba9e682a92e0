"""Pictures as PNG: grids, strips with captions, and panels of them. Pixels are enlarged by whole factors, so that 8x8 images can
be seen. Where Pillow is missing, pictures are left out (plots.py).
"""

import contextlib
import functools
import pathlib
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from scoreflow_jax.pixels import to_pixels
from scoreflow_jax.plots import font_file, none_at
from scoreflow_jax.typing import HostImages

with contextlib.suppress(ModuleNotFoundError):  # then none of what needs it is reached: plots.can_save
    from PIL import Image, ImageDraw, ImageFont, features

MINIMAL_TILE = 40  # smaller images are enlarged to at least this many screen pixels
MAXIMAL_WIDTH = 4000  # of panels side by side: what would be wider goes on below
_GAP = 2  # screen pixels between tiles
_SPACE = 14  # around panels
_LAST_STANDS = 10  # times as long as the others, of an animation
_TEXT_ROOM = 400  # for captions, where a width is reckoned before they are known
_FONT_SIZE = 13  # of tiles up to ten times as high; it grows with them, since large pictures are looked at from afar
_INK, _PAPER = (32, 32, 32), (255, 255, 255)

Row = Float[np.ndarray, "_ height width channel"]
"""Images side by side; not every row has as many."""


Picture = UInt8[np.ndarray, "_ _ 3"]


class Panel(NamedTuple):
    """Rows of images with their texts.

    Attributes:
        rows: images in [-1, 1], one array a row, all of one size.
        title: over the panel.
        captions: one for each row, left of it.
        heads: one for each column, over it.
    """

    rows: Sequence[Row]
    title: str = ""
    captions: Sequence[str] = ()
    heads: Sequence[str] = ()


def save_grid(path: pathlib.Path, images: HostImages, *, columns: int) -> None:
    """Draws images in rows of `columns`, in order.

    Args:
        path: of the PNG.
        images: in [-1, 1], with 1 or 3 channels.
        columns: images in a row.
    """
    save_rows(path, in_rows(images, columns))


def save_picture(path: pathlib.Path, pixels: UInt8[np.ndarray, "height width channel"]) -> None:
    """Writes one image as it is, without a frame."""
    from PIL import Image

    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)


def in_rows(images: HostImages, columns: int) -> list[Row]:
    """Images in rows of `columns`, in order; the last may be shorter."""
    return [images[i : i + columns] for i in range(0, len(images), columns)]


def save_rows(
    path: pathlib.Path,
    rows: list[Row],
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
    if none_at(path):
        return
    _save(path, _picture(Panel(rows, captions=captions or (), heads=heads or ())))


def save_panels(path: pathlib.Path, lines: Sequence[Sequence[Panel]]) -> None:
    """Draws panels, those of a line side by side.

    Args:
        path: of the PNG.
        lines: of panels, from above. A line that would be wider than `MAXIMAL_WIDTH` goes on below.
    """
    if none_at(path):
        return
    pictures = [part for line in lines for part in _broken([_picture(panel) for panel in line])]
    width = max(sum(p.width + _SPACE for p in line) for line in pictures) + _SPACE
    height = sum(max(p.height for p in line) + _SPACE for line in pictures) + _SPACE
    canvas = Image.new("RGB", (width, height), _PAPER)
    y = _SPACE
    for line in pictures:
        x = _SPACE
        for picture in line:
            canvas.paste(picture, (x, y))
            x += picture.width + _SPACE
        y += max(p.height for p in line) + _SPACE
    _save(path, canvas)


def panel_pixels(panel: Panel) -> UInt8[np.ndarray, "height width 3"]:
    """A panel as a picture of an animation."""
    return np.asarray(_picture(panel))


def save_animation(path: pathlib.Path, pictures: Sequence[Picture], milliseconds: int) -> None:
    """Pictures one after the other as a GIF that begins again, after the last has stood for a while.

    Args:
        path: of the GIF.
        pictures: of one size.
        milliseconds: how long each stands.
    """
    if none_at(path):
        return
    first, *rest = (Image.fromarray(picture).quantize(colors=64) for picture in pictures)
    durations = [milliseconds] * len(rest) + [_LAST_STANDS * milliseconds]
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0)


def most_columns(shape: tuple[int, ...]) -> int:
    """How many images of this shape a panel may have in a row, so that it keeps to `MAXIMAL_WIDTH`."""
    return (MAXIMAL_WIDTH - _TEXT_ROOM) // (shape[1] * _factor(shape) + _GAP)


def can_draw(text: str) -> bool:
    """Whether the font has all characters of a text; those it has not are drawn as escapes."""
    return _drawable(text) == unicodedata.normalize("NFC", text)


def _broken(line: list["Image.Image"]) -> list[list["Image.Image"]]:
    """The pictures of a line in as many lines as they need."""
    parts: list[list[Image.Image]] = [[]]
    for picture in line:
        if parts[-1] and sum(p.width + _SPACE for p in [*parts[-1], picture]) + _SPACE > MAXIMAL_WIDTH:
            parts.append([])
        parts[-1].append(picture)
    return parts


def _picture(panel: Panel) -> "Image.Image":
    """A panel as tight as it goes."""
    title, captions, heads = _drawable(panel.title), *([_drawable(t) for t in texts] for texts in panel[2:])
    tiles = [[_tile(image) for image in to_pixels(row)] for row in panel.rows]
    height, width = tiles[0][0].shape[:2]
    text = max(_FONT_SIZE, height // 10)
    font, line = _font(text), text * 6 // 5
    cell = max([width, *(int(font.getlength(head)) + 3 * _GAP for head in heads)])
    pitch = cell + _GAP
    left = max((int(font.getlength(caption)) for caption in captions), default=-_GAP * 4) + _GAP * 4
    under_title = line + _GAP * 3 if title else 0
    top = under_title + (line + _GAP * 2 if heads else 0)
    columns = max(len(row) for row in tiles)
    size = (
        max(left + columns * pitch + _GAP, int(font.getlength(title)) + 2 * _GAP if title else 0),
        top + len(tiles) * (height + _GAP) + _GAP,
    )
    canvas = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_GAP, _GAP), title, _INK, font)
    for c, head in enumerate(heads):
        draw.text((left + _GAP + c * pitch + cell / 2, under_title + _GAP), head, _INK, font, anchor="ma")
    for r, row in enumerate(tiles):
        y = top + _GAP + r * (height + _GAP)
        if captions:
            draw.text((_GAP * 2, y + height / 2), captions[r], _INK, font, anchor="lm")
        for c, tile in enumerate(row):
            canvas.paste(Image.fromarray(tile), (left + _GAP + c * pitch + (cell - width) // 2, y))
    return canvas


def _save(path: pathlib.Path, canvas: "Image.Image") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def _tile(pixels: UInt8[np.ndarray, "height width channel"]) -> UInt8[np.ndarray, "height2 width2 3"]:
    """One image as RGB, enlarged by a whole factor where it is small."""
    factor = _factor(pixels.shape)
    enlarged = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    return np.broadcast_to(enlarged, (*enlarged.shape[:2], 3)) if pixels.shape[-1] == 1 else enlarged


def _factor(shape: tuple[int, ...]) -> int:
    return max(1, -(-MINIMAL_TILE // max(shape[:2])))


def _drawable(text: str) -> str:
    """The text with escapes for what the font would draw as empty boxes, and for what would break the line."""
    characters = unicodedata.normalize("NFC", text)
    return "".join(c if _has_glyph(c) else c.encode("unicode_escape").decode() for c in characters)


@functools.cache
def _has_glyph(character: str) -> bool:
    """Pillow does not tell, so by comparison with what it draws for a character that no font has."""
    if not character.isprintable():
        return False
    if unicodedata.bidirectional(character) in ("R", "AL") and not features.check("fribidi"):
        return False  # they would stand unjoined and in the wrong order
    return _drawn(character) != _drawn("\U0010ffff")


def _drawn(character: str) -> bytes:
    canvas = Image.new("L", (4 * _FONT_SIZE, 3 * _FONT_SIZE))
    ImageDraw.Draw(canvas).text((_FONT_SIZE, _FONT_SIZE), character, 255, _font(_FONT_SIZE))
    return canvas.tobytes()


@functools.cache
def _font(size: int) -> "ImageFont.FreeTypeFont":
    return ImageFont.truetype(font_file(), size)
