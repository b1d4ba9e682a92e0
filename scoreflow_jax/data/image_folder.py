"""Pictures from a folder of the user's own."""

import pathlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from scoreflow_jax.errors import UserError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def read_pictures(
    folder: str, shape: tuple[int, int, int], limit: int | None = None
) -> UInt8[np.ndarray, "batch height width channel"]:
    """Reads the pictures of a folder, in order of their names, at the given size: center crop, then Lanczos.

    Args:
        folder: searched without its sub-folders.
        shape: (height, width, channels), with 1 channel (grey) or 3 (RGB).
        limit: at most this many.

    Returns:
        Pixels 0 .. 255.

    Raises:
        UserError: no such folder, no picture in it, or one that cannot be read.
    """
    root = pathlib.Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"{folder} is not a folder; expected a folder of pictures")
    files = sorted(path for path in root.iterdir() if path.suffix.lower() in SUFFIXES)[:limit]
    if not files:
        raise UserError(f"no pictures in {folder}; expected files that end in {', '.join(sorted(SUFFIXES))}")
    return np.stack([_read(path, shape) for path in files])


def _read(path: pathlib.Path, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "height width channel"]:
    height, width, channels = shape
    try:
        with Image.open(path) as picture:
            converted = picture.convert("L" if channels == 1 else "RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        raise UserError(f"cannot read {path} as a picture ({error}): repair or remove it") from error
    side_w, side_h = converted.size
    scale = min(side_w / width, side_h / height)
    crop_w, crop_h = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (side_w - crop_w) // 2, (side_h - crop_h) // 2
    # Cropped first: a resize of a box lets the filter see over its edge.
    cropped = converted.crop((left, top, left + crop_w, top + crop_h))
    return np.asarray(cropped.resize((width, height), Image.Resampling.LANCZOS), np.uint8).reshape(shape)
