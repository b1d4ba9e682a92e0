"""Pictures from folders of the user's own: a data set with a sub-folder for each class, and loose pictures."""

import pathlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from scoreflow_jax.data.base import Example, ImageSpec
from scoreflow_jax.errors import UserError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class ImageFolder:
    """Pictures in <folder>/<name>/<split>/<class>/, StarGAN v2's layout of AFHQ; classes are numbered by their names' order."""

    def __init__(self, folder: str | None, name: str, split: str, shape: tuple[int, ...]) -> None:
        """Lists the files.

        Args:
            folder: where data sets lie; None: the working directory.
            name: of the data set's folder in it.
            split: "train" or whatever its sub-folder is called.
            shape: (height, width, channels) to which pictures are cropped and resized when they are read.

        Raises:
            UserError: no such folder, or no pictures in it.
        """
        root = pathlib.Path(folder or ".").expanduser() / name / split
        classes = (
            sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
            if root.is_dir()
            else []
        )
        self._files = [(file, label) for label, path in enumerate(classes) for file in _pictures(path)]
        if not self._files:
            raise UserError(
                f"no pictures in {root}: expected a sub-folder for each class with files that end in "
                f"{', '.join(sorted(SUFFIXES))}. Set config.data.dir to the folder that holds {name}"
            )
        height, width, channels = shape
        self.spec = ImageSpec(shape=(height, width, channels), num_classes=len(classes))
        self.class_names = tuple(path.name for path in classes)

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self._files)

    def __getitem__(self, index: int) -> Example:
        """Picture number `index`, read from its file."""
        path, label = self._files[index]
        return {"image": _read(path, self.spec.shape), "label": np.int32(label)}


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
    files = _pictures(root)[:limit]
    if not files:
        raise UserError(f"no pictures in {folder}; expected files that end in {', '.join(sorted(SUFFIXES))}")
    return np.stack([_read(path, shape) for path in files])


def _pictures(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


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
