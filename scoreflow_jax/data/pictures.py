"""Pictures of any size and mode become 8-bit grey or RGB of one size.

One rule for every source: the first frame, turned as its EXIF tag says; what is transparent becomes white; 16-bit values are
divided by 257. Then the largest centred part of the wanted proportions is cut out ("crop"), or white is added around the whole
picture until it has them ("fit"), and Lanczos resizes it (Pillow's, whose window widens when it shrinks). Colour profiles are
not applied.
"""

import functools
import os
import pathlib
import stat
import warnings
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from scoreflow_jax.errors import first_line

FRAMINGS = ("crop", "fit")
FILTER = "Lanczos"
_WHITE = 255

# Formats that Pillow only recognizes, or that start another program (EPS is given to Ghostscript), or need one more package.
_NOT_READ = frozenset({"BUFR", "EPS", "FPX", "GRIB", "HDF5", "MIC", "MPEG", "PDF", "WMF"})

# Pillow's warning about large pictures cannot be caught in a thread; they are refused by their size below.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadablePicture(ValueError):
    """A file that is no picture, or a damaged one. The message is a reason without the file's name."""


@functools.cache
def suffixes() -> frozenset[str]:
    """Endings of the files that are taken for pictures, in lower case: of every format that Pillow reads by itself."""
    Image.init()
    return frozenset(end for end, name in Image.registered_extensions().items() if name in _formats())


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.OPEN if name not in _NOT_READ)


def read_picture(
    path: pathlib.Path | str, shape: tuple[int, ...], framing: str = "crop"
) -> UInt8[np.ndarray, "height width channel"]:
    """Reads a file at the given size.

    Args:
        path: of the file; a link is not followed.
        shape: (height, width, channels), with 1 channel (grey) or 3 (RGB).
        framing: "crop" or "fit", see the module.

    Returns:
        Pixels 0 .. 255.

    Raises:
        UnreadablePicture: with the reason.
    """
    return framed(_decode(path, "L" if shape[2] == 1 else "RGB"), shape, framing)


def check_picture(path: pathlib.Path | str) -> tuple[int, int]:
    """Reads a whole file to see that it can be; returns its (width, height), turned as EXIF says.

    Raises:
        UnreadablePicture: with the reason.
    """
    return _decode(path, "RGB").size


def framed(
    picture: Image.Image | UInt8[np.ndarray, "height1 width1 channel1"],
    shape: tuple[int, ...],
    framing: str = "crop",
) -> UInt8[np.ndarray, "height width channel"]:
    """Brings an 8-bit grey or RGB picture to a size by the rule of the module."""
    height, width, channels = shape
    if isinstance(picture, np.ndarray):
        if picture.shape == shape:
            return picture
        picture = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
        picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = _resized(picture, width, height, framing)
    return np.asarray(picture, np.uint8).reshape(shape)


def _resized(picture: Image.Image, width: int, height: int, framing: str) -> Image.Image:
    if framing == "fit":
        white = (_WHITE,) * len(picture.getbands())
        return ImageOps.pad(picture, (width, height), Image.Resampling.LANCZOS, color=white if white[1:] else _WHITE)
    side_w, side_h = picture.size
    scale = min(side_w / width, side_h / height)
    crop_w, crop_h = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (side_w - crop_w) // 2, (side_h - crop_h) // 2
    if (crop_w, crop_h) != picture.size:  # first: a resize of a box lets the filter see over its edge
        picture = picture.crop((left, top, left + crop_w, top + crop_h))
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _decode(path: pathlib.Path | str, mode: str) -> Image.Image:
    """The first frame of a file, decoded, turned, and in mode "L" or "RGB"."""
    try:
        with _open(path) as file, Image.open(file, formats=_formats()) as picture:
            limit = Image.MAX_IMAGE_PIXELS
            if limit and picture.width * picture.height > limit:
                raise UnreadablePicture(_too_large(picture.width * picture.height))
            picture.load()
            turned = ImageOps.exif_transpose(picture) if picture.getexif().get(0x0112, 1) != 1 else picture
            return _plain(turned, mode)
    except UnreadablePicture:
        raise
    except UnidentifiedImageError:
        raise UnreadablePicture("not a picture that Pillow can read") from None
    except PermissionError:
        raise UnreadablePicture("no permission to read it") from None
    except Image.DecompressionBombError:
        raise UnreadablePicture(_too_large(None)) from None
    # Decoders raise whatever a damaged file makes them run into: OSError, SyntaxError, struct.error, IndexError, ...
    except Exception as error:
        raise UnreadablePicture(f"damaged: {first_line(error)}") from error


def _too_large(pixels: int | None) -> str:
    count = "far more" if pixels is None else f"{pixels:,}, more"
    return f"a decompression bomb? Its pixels are {count} than Pillow's limit of {Image.MAX_IMAGE_PIXELS:,}"


def _open(path: pathlib.Path | str) -> Any:
    """Opens a regular file and nothing else: no link out of the folder, no pipe that would block."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UnreadablePicture("not a file")
    return file


def _plain(picture: Image.Image, mode: str) -> Image.Image:
    """Any of Pillow's modes as "L" or "RGB"."""
    if picture.mode.startswith("I"):  # 16 bits, also where they come as 32
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadablePicture(f"its values are {values.min()} to {values.max()}, expected at most 16 bits")
        picture = Image.fromarray(np.round(values / 257.0).astype(np.uint8))
    elif picture.mode == "F":
        raise UnreadablePicture("its values are floating-point numbers, whose range a picture does not say")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        background = Image.new("RGBA", picture.size, (_WHITE,) * 4)
        picture = Image.alpha_composite(background, picture)
    return picture if picture.mode == mode else picture.convert(mode)
