"""Images in an npz file, held in memory whole: NumPy alone reads them, so that nothing has to be installed for a data set.

A file has <split>_images, and <split>_labels where they have classes. One of arr_0, 8-bit images, and perhaps arr_1, labels, such
as guided-diffusion's samples, has no splits: an image is held out or not by a hash of its pixels.
"""

import hashlib
import heapq
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, UInt8

from scoreflow_jax.data.base import SKETCH, DataSource, DataSpec, Example, Examples, NoExamples
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.settings.data import DataSettings
from scoreflow_jax.user_paths import user_path

NAMES = "class_names"
"""The array of the classes' names, which a file may have."""

UNSPLIT, UNSPLIT_LABELS = "arr_0", "arr_1"
"""What NumPy calls arrays that are saved without names."""

_MOST_CLASSES = 100_000  # labels beyond are no numbers of classes
_EXPECTED = "uint8 (images, height, width, channels)"


class Arrays(DataSource):
    """The images of one split."""

    def __init__(self, split: str, settings: DataSettings) -> None:
        """Reads the file.

        Args:
            split: "train" or "test".
            settings: path, train_split, test_split, test_share and shape of `config.data`.

        Raises:
            UserError: no path, no such file, a damaged one, or arrays that are missing or of another kind, shape or length.
        """
        if settings.path is None:
            raise UserError(
                "no arrays are given: --config.data.path=FILE.npz, with train_images, train_labels, test_images and "
                "test_labels in it"
            )
        path, name = user_path(settings.path), settings.split_name(split)
        stored = _read(path, (name, *(settings.split_name(s) for s in ("train", "test"))))
        unsplit = UNSPLIT in stored and f"{name}_images" not in stored
        if unsplit:
            stored = {
                f"{name}_images": stored[UNSPLIT],
                f"{name}_labels": stored.get(UNSPLIT_LABELS),
                NAMES: stored.get(NAMES),
            }
        self._images = _images(path, UNSPLIT if unsplit else f"{name}_images", stored, settings.shape, f"{name}_images")
        labels, self.class_names = _classes(path, name, stored)
        if labels is not None and len(labels) != len(self._images):
            raise UserError(
                f"{path} has {len(self._images)} images in {name}_images and {len(labels)} labels in {name}_labels, expected "
                "one label for each image"
            )
        here = _held_out(self._images, settings.test_share) == (split == "test") if unsplit else np.array([], bool)
        if unsplit:
            self._images, labels = self._images[here], None if labels is None else labels[here]
        if not len(self._images):
            raise NoExamples(
                f"no images of {path} are in the split {split!r}: config.data.test_share={settings.test_share:g} holds out a "
                "part by their pixels' hash. Add images, or change that share"
            )
        classes = len(self.class_names)
        self._labels = labels if labels is not None and classes > 1 else np.zeros(len(self._images), np.int32)
        height, width, channels = self._images.shape[1:]
        self.spec = DataSpec(shape=(height, width, channels), num_classes=classes if classes > 1 else 0)
        self.facts: dict[str, Any] = {
            "kind": "arrays",
            "split": name,
            **({"held_out": f"{settings.test_share:g} of the images, by a hash of their pixels"} if unsplit else {}),
            "sketch": _sketch(self._images, self._labels),
        }

    def __len__(self) -> int:
        """The number of images."""
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        """One image."""
        return {"image": self._images[index], "label": self._labels[index]}

    def read(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """Several images."""
        indices = np.asarray(indices, np.int64)
        return {"image": self._images[indices], "label": self._labels[indices]}

    def labels(self) -> Int32[np.ndarray, " examples"]:
        """All labels."""
        return self._labels


def _held_out(images: UInt8[np.ndarray, "images height width channels"], share: float) -> Bool[np.ndarray, " images"]:
    """Which images are held out: equal ones are on one side, and new ones change nothing for the others."""
    digests = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images]
    return np.frombuffer(b"".join(digests), ">u8") / 2.0**64 < share


def _read(path: pathlib.Path, splits: tuple[str, ...]) -> dict[str, np.ndarray | None]:
    """The file's arrays by name: images of the first split, labels of all, names of classes; None for others, not read."""
    if not path.is_file():
        raise UserError(f"{path} is not a file: give an npz of images as config.data.path")
    wanted = {f"{splits[0]}_images", *(f"{split}_labels" for split in splits), NAMES, UNSPLIT, UNSPLIT_LABELS}
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: np.asarray(file[name]) if name in wanted else None for name in file.files}
    except Exception as error:  # a damaged zip raises almost anything, and a file of one array is no context
        raise UserError(f"cannot read {path} ({first_line(error)}): expected an npz of images") from error


def _images(
    path: pathlib.Path, name: str, stored: dict[str, np.ndarray | None], shape: tuple[int, ...], key: str
) -> UInt8[np.ndarray, "images height width channels"]:
    images = stored.get(key)
    if images is None:
        raise NoExamples(
            f"{path} holds {', '.join(stored) or 'nothing'}, expected {name}: correct config.data.path, train_split or "
            "test_split, or rename the array"
        )
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise UserError(f"{name} of {path} is {images.dtype} {images.shape}, expected {_EXPECTED}")
    images = images if images.ndim == 4 else images[..., None]
    if not len(images):
        raise NoExamples(f"{name} of {path} is empty, expected {_EXPECTED}")
    if shape and images.shape[1:] != shape:
        raise UserError(
            f"{name} of {path} has images of {images.shape[1:]}, but config.data.shape is {shape}: correct that, since "
            "arrays are taken as they are"
        )
    return images


def _classes(
    path: pathlib.Path, split: str, stored: dict[str, np.ndarray | None]
) -> tuple[Int32[np.ndarray, " images"] | None, tuple[str, ...]]:
    """The split's labels, and the names of the classes: as many as there are names, or as the labels of all splits need."""
    found = {name: array for name, array in stored.items() if name.endswith("_labels") and array is not None}
    for name, labels in found.items():
        if labels.dtype.kind not in "iu" or labels.ndim != 1:
            raise UserError(f"{name} of {path} is {labels.dtype} {labels.shape}, expected whole numbers (images,)")
        if len(labels) and not 0 <= labels.min() <= labels.max() < _MOST_CLASSES:
            raise UserError(
                f"{name} of {path} goes from {labels.min()} to {labels.max()}, expected classes numbered from 0"
            )
    if not found:
        return None, ()
    own = found.get(f"{split}_labels")
    if own is None:
        raise UserError(f"{path} holds {', '.join(stored)}, expected {split}_labels too, or labels of no split")
    count = max([int(labels.max()) + 1 for labels in found.values() if len(labels)], default=0)
    return own.astype(np.int32), _names(path, stored.get(NAMES), count)


def _names(path: pathlib.Path, names: np.ndarray | None, count: int) -> tuple[str, ...]:
    """A name for each class; their numbers where the file has none."""
    if names is None:
        return tuple(map(str, range(count)))
    if names.dtype.kind != "U" or names.ndim != 1 or len(names) < count:
        raise UserError(
            f"{NAMES} of {path} is {names.dtype} {names.shape}, expected a text for each of {count} classes"
        )
    return tuple(names.tolist())


def _sketch(
    images: UInt8[np.ndarray, "images height width channels"], labels: Int32[np.ndarray, " images"]
) -> list[str]:
    """The smallest hashes of images with their labels: what two files' sketches have in common, the files have."""
    hashes = (
        hashlib.blake2b(image.tobytes() + label.tobytes(), digest_size=8).hexdigest()
        for image, label in zip(images, labels.astype("<i4"), strict=True)
    )
    return heapq.nsmallest(SKETCH, hashes)
