"""Pictures of any size and mode become 8-bit grey or RGB of one size.

One rule for every source: the first frame, turned as its EXIF tag says; what is transparent becomes white; 16-bit grey values
go from 0 to 65535, or to the white level that is given (of 16-bit colours Pillow reads the higher byte). Then the largest
centred part of the wanted proportions is cut out ("crop"), or the whole is kept ("fit"), and Lanczos resizes it (Pillow's, whose
window widens when it shrinks); what "fit" leaves free is white. "right_half" crops from the right half, for pix2pix's pictures of
pairs. Colour profiles are not applied.
"""

import errno
import functools
import os
import pathlib
import stat
import warnings
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from scoreflow_jax.data import archives
from scoreflow_jax.data.base import FRAMINGS as FRAMINGS
from scoreflow_jax.errors import first_line

FILTER = "Lanczos"
_WHITE = 255
_LARGEST = 65535  # of 16 bits

# Formats that Pillow only recognizes, or that start another program (EPS is given to Ghostscript, and so is EPS within IPTC), or
# need one more package.
_NOT_READ = frozenset({"BUFR", "EPS", "FPX", "GRIB", "HDF5", "IPTC", "MIC", "MPEG", "PDF", "WMF"})

_COMMON = ("JPEG", "PNG", "WEBP")
_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow's warning about large pictures cannot be caught in a thread; they are refused by their size below.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadablePicture(ValueError):
    """A file that is no picture, or a damaged one. The message is a printable reason without the file's name."""


def printable(name: str) -> str:
    """A file name in any script, with what no terminal can show (broken encodings, line breaks) escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


@functools.cache
def suffixes() -> frozenset[str]:
    """Endings of the files that are taken for pictures, in lower case: of every format that Pillow reads by itself."""
    read = {*_formats(), "MPO"}  # which Pillow opens as JPEG
    return frozenset(end for end, name in Image.registered_extensions().items() if name in read)


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    # Common ones first: of every file the formats are tried in turn, and some only by opening it.
    return tuple(sorted((name for name in Image.OPEN if name not in _NOT_READ), key=lambda name: name not in _COMMON))


def only_safe_formats() -> None:
    """Takes from Pillow what is not read here, for a process in which other code than this opens files of strangers."""
    Image.init()
    Image.ID[:] = [name for name in Image.ID if name not in _NOT_READ]
    for name in _NOT_READ:
        Image.OPEN.pop(name, None)


def read_picture(
    path: pathlib.Path | str, shape: tuple[int, ...], framing: str = "crop", white_level: int | None = None
) -> UInt8[np.ndarray, "height width channel"]:
    """Reads a file at the given size.

    Args:
        path: of the file; a link is not followed. It may lead through a zip.
        shape: (height, width, channels), with 1 channel (grey) or 3 (RGB).
        framing: one of `FRAMINGS`, see the module.
        white_level: the value of white in pictures of 16 bits, such as 4095 where 12 of them are used; None: 65535.

    Returns:
        Pixels 0 .. 255.

    Raises:
        UnreadablePicture: with the reason.
    """
    return framed(_decode(path, "L" if shape[2] == 1 else "RGB", white_level or _LARGEST)[0], shape, framing)


def check_picture(path: pathlib.Path | str) -> tuple[int, int, int]:
    """Reads a whole file to see that it can be.

    Returns:
        Width and height, turned as EXIF says, and the largest value of a grey picture of 16 bits, 0 of others.

    Raises:
        UnreadablePicture: with the reason.
    """
    picture, peak = _decode(path, "RGB", _LARGEST)
    return (*picture.size, peak)


def framed(
    picture: Image.Image | UInt8[np.ndarray, "height1 width1 channel1"],
    shape: tuple[int, ...],
    framing: str = "crop",
) -> UInt8[np.ndarray, "height width channel"]:
    """Brings an 8-bit grey or RGB picture to a size by the rule of the module.

    Args:
        picture: a Pillow picture of the mode wanted, "L" or "RGB"; or pixels of 1 or 3 channels, which are converted.
        shape: (height, width, channels), with 1 channel (grey) or 3 (RGB).
        framing: one of `FRAMINGS`, see the module.
    """
    height, width, channels = shape
    if isinstance(picture, np.ndarray):
        if picture.shape == tuple(shape) and framing != "right_half":
            return picture
        picture = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
        picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height) or framing == "right_half":
        picture = _resized(picture, width, height, framing)
    return np.asarray(picture, np.uint8).reshape(shape)


def _resized(picture: Image.Image, width: int, height: int, framing: str) -> Image.Image:
    if framing == "fit":
        return _fitted(picture, width, height)
    if framing == "right_half":
        picture = picture.crop((picture.width // 2, 0, picture.width, picture.height))
    side_w, side_h = picture.size
    scale = min(side_w / width, side_h / height)
    crop_w, crop_h = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (side_w - crop_w) // 2, (side_h - crop_h) // 2
    if (crop_w, crop_h) != picture.size:  # first: a resize of a box lets the filter see over its edge
        picture = picture.crop((left, top, left + crop_w, top + crop_h))
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _fitted(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The whole picture in the middle of white; of the narrowest a line is left (ImageOps.pad leaves nothing)."""
    scale = min(width / picture.width, height / picture.height)
    inner_w, inner_h = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    canvas = Image.new(picture.mode, (width, height), "white")
    inner = picture.resize((inner_w, inner_h), Image.Resampling.LANCZOS)
    canvas.paste(inner, ((width - inner_w) // 2, (height - inner_h) // 2))
    return canvas


def _decode(path: pathlib.Path | str, mode: str, white: int) -> tuple[Image.Image, int]:
    """The first frame of a file, decoded, turned, and in mode "L" or "RGB"; and the largest value of one of 16 bits, else 0."""
    try:
        with _open(path) as file, Image.open(file, formats=_formats()) as picture:
            limit = Image.MAX_IMAGE_PIXELS
            if limit and picture.width * picture.height > limit:
                raise UnreadablePicture(_too_large(picture.width * picture.height))
            picture.load()
            turned = _turned(picture)
            peak = int(np.max(np.asarray(turned))) if turned.mode.startswith("I") else 0
            return _plain(turned, mode, white), peak
    except UnreadablePicture:
        raise
    except UnidentifiedImageError:
        raise UnreadablePicture("not a picture that Pillow can read") from None
    except Image.DecompressionBombError:
        raise UnreadablePicture(_too_large(None)) from None
    # Decoders raise whatever a damaged file makes them run into: OSError, SyntaxError, struct.error, IndexError, ...
    except Exception as error:
        raise UnreadablePicture(why_not_read(error) or f"damaged: {printable(first_line(error))}") from error


PASSING = ("no permission", "cannot be read")
"""How reasons begin that lie in the machine, not in the file: without a change of the file they may be gone."""


def why_not_read(error: Exception) -> str:
    """The reason where the system, and no decoder, raised an error; else empty."""
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, MemoryError):
        return "cannot be read: out of memory"
    number = error.errno if isinstance(error, OSError) else None  # decoders' own have no number
    if number == errno.ELOOP:
        return "a link; links are not followed"
    return f"cannot be read: {os.strerror(number)}" if number else ""


def _too_large(pixels: int | None) -> str:
    count = "far more" if pixels is None else f"{pixels:,}, more"
    return f"a decompression bomb? Its pixels are {count} than Pillow's limit of {Image.MAX_IMAGE_PIXELS:,}"


def _open(path: pathlib.Path | str) -> Any:
    """Opens a regular file and nothing else: no link out of the folder, no pipe that would block. Or a file in a zip."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        number = os.open(path, flags)
    except NotADirectoryError:
        return archives.read_entry(pathlib.Path(path))
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise UnreadablePicture("not a file")
    return os.fdopen(number, "rb")


def _turned(picture: Image.Image) -> Image.Image:
    """Turns a picture as its EXIF tag says. Pillow's exif_transpose also writes all other tags anew, and fails on odd ones."""
    try:
        turn = _TURNS.get(picture.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # damaged tags, in a picture that could be read
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _plain(picture: Image.Image, mode: str, white: int) -> Image.Image:
    """Any of Pillow's modes as "L" or "RGB"; 16-bit values up to `white`."""
    if picture.mode.startswith("I"):  # 16 bits, also where they come as 32
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > _LARGEST:
            raise UnreadablePicture(f"its values are {values.min()} to {values.max()}, expected at most 16 bits")
        clear = values == picture.info.get("transparency", -1)
        scaled = np.minimum(np.round(values * (_WHITE / white)), _WHITE)
        picture = Image.fromarray(np.where(clear, _WHITE, scaled).astype(np.uint8))
    elif picture.mode == "F":
        raise UnreadablePicture("its values are floating-point numbers, whose range a picture does not say")
    elif picture.mode == "LAB":  # Pillow has no way from it to grey
        picture = picture.convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        background = Image.new("RGBA", picture.size, (_WHITE,) * 4)
        picture = Image.alpha_composite(background, picture)
    return picture if picture.mode == mode else picture.convert(mode)
