"""Pictures from folders of the user's own: sub-folders are classes, loose pictures have none."""

import pathlib
import sys
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from scoreflow_jax.data.base import DataSource, DataSpec, Example
from scoreflow_jax.data.folder_scan import Scan, printable, refuse_skipped, scan_folder, warning_of
from scoreflow_jax.data.obtain import how_to_get
from scoreflow_jax.data.pictures import FILTER, UnreadablePicture, read_picture, suffixes
from scoreflow_jax.errors import UserError
from scoreflow_jax.settings import DataSettings

ENLARGED = 4
"""Pictures that would have to be enlarged by more than this are tiny: they are skipped, or refused under strict."""

_TEST_FOLDERS = ("test", "val", "valid", "validation")
_warned: set[tuple[str, ...]] = set()  # what was said in this process is not said again for the other split


class ImageFolder(DataSource):
    """The pictures of one split of a folder.

    Layouts: <path>/<class>/... and <path>/... without sub-folders, from which every file is held out or not by a hash of its
    own name, so that new files change nothing for old ones; and <path>/train/..., <path>/test/... of either kind.
    """

    def __init__(self, split: str, settings: DataSettings) -> None:
        """Scans the folder.

        Args:
            split: "train" or "test".
            settings: path, shape, framing, test_share and strict of `config.data`.

        Raises:
            UserError: no path, no such folder, no pictures in it or in this split of it, a file that cannot be used under
                strict, or two classes that other systems would not tell apart.
        """
        if settings.path is None:
            raise UserError(
                f"no folder of pictures is given for {settings.name}: set config.data.path (of a part or a base: that one's path) "
                f"to a folder with a sub-folder for each class, or with pictures.{how_to_get(settings.name)}"
            )
        root = pathlib.Path(settings.path).expanduser()
        if not root.is_dir():
            raise UserError(
                f"config.data.path is {printable(settings.path)}, which is not a folder; expected a folder of pictures, or of one "
                f"sub-folder for each class.{how_to_get(settings.name)}"
            )
        folder = _split_folder(root, split, settings)
        scan = scan_folder(folder or root)
        height, width, channels = settings.shape
        smallest = min(height, width) / ENLARGED
        tiny = scan.sides < smallest
        skipped = dict(scan.skipped)
        for i in np.flatnonzero(tiny):
            skipped[printable(scan.names[int(i)])] = (
                f"tiny: {scan.sides[i]} pixels, expected {int(np.ceil(smallest))} at least"
            )
        if settings.strict:
            refuse_skipped(skipped, scan.root)
        _warn(skipped, scan.root)
        chosen = ~tiny
        if folder is None:
            out = scan.hashes < np.uint64(settings.test_share * 2.0**64) if settings.test_share else np.zeros_like(tiny)
            chosen &= out == (split == "test")
        self._keep(scan, chosen, split, settings)
        classes = scan.class_names
        self.spec = DataSpec(shape=(height, width, channels), num_classes=len(classes) if len(classes) > 1 else 0)
        self.class_names = tuple(printable(name) for name in classes)
        share = (
            "a folder of its own"
            if folder is not None
            else f"{settings.test_share:g} of the files, by their names' hash"
        )
        self.facts: dict[str, Any] = {
            "kind": "folder of pictures",
            "filter": FILTER,
            "framing": settings.framing,
            "held_out": share,
            "sketch": list(scan.sketch),
        }

    def _keep(self, scan: Scan, chosen: np.ndarray, split: str, settings: DataSettings) -> None:
        """Keeps the scan and the numbers of the files chosen from it."""
        self._root, self._names, self._framing = scan.root, scan.names, settings.framing
        self._chosen = np.flatnonzero(chosen)
        self._labels = scan.labels[self._chosen] if len(scan.class_names) > 1 else np.zeros(len(self._chosen), np.int32)
        if not len(self._chosen):
            raise UserError(
                f"no pictures of {printable(str(scan.root))} are in the split {split!r}: of {len(scan.names)} readable ones "
                f"config.data.test_share={settings.test_share:g} holds out a part by their names' hash. Add pictures, change "
                "that share, or make folders train and test"
            )

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self._chosen)

    def __getitem__(self, index: int) -> Example:
        """Picture number `index`, read from its file."""
        name = self._names[int(self._chosen[index])]
        try:
            image = read_picture(self._root / name, self.spec.shape, self._framing)
        except UnreadablePicture as error:
            raise UserError(
                f"cannot read {printable(str(self._root / name))}: {error}. It could be read when the folder was scanned"
            ) from error
        return {"image": image, "label": self._labels[index]}

    def labels(self) -> Int32[np.ndarray, " examples"]:
        """All labels, without reading a picture."""
        return self._labels


def _split_folder(root: pathlib.Path, split: str, settings: DataSettings) -> pathlib.Path | None:
    """<root>/<split> where the folder comes with its splits; else None, and splits are made."""
    if not (root / settings.train_split).is_dir():
        return None
    own = settings.split_name(split)
    others = _TEST_FOLDERS if split == "test" else ()
    for name in (own, *others):
        if (root / name).is_dir():
            return root / name
    raise UserError(
        f"{printable(str(root))} has a folder {settings.train_split!r} but no {own!r} beside it: make one, or call it "
        f"{' or '.join(others) or own}"
    )


def _warn(skipped: dict[str, str], root: pathlib.Path) -> None:
    said = (str(root), *skipped)
    if skipped and said not in _warned:
        _warned.add(said)
        print(warning_of(skipped, root), file=sys.stderr)


def read_pictures(
    folder: str, shape: tuple[int, ...], limit: int | None = None, framing: str = "crop"
) -> UInt8[np.ndarray, "batch height width channel"]:
    """Reads the pictures of a folder, in order of their names, at the given size.

    Args:
        folder: searched without its sub-folders.
        shape: (height, width, channels), with 1 channel (grey) or 3 (RGB).
        limit: at most this many.
        framing: "crop" or "fit".

    Returns:
        Pixels 0 .. 255.

    Raises:
        UserError: no such folder, no picture in it, or one that cannot be read.
    """
    root = pathlib.Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"{folder} is not a folder; expected a folder of pictures")
    found = sorted(
        path for path in root.iterdir() if path.suffix.lower() in suffixes() and not path.name.startswith(".")
    )[:limit]
    if not found:
        raise UserError(f"no pictures in {folder}; expected files such as a.jpg or a.png")
    return np.stack([_read_or_name(path, shape, framing) for path in found])


def _read_or_name(
    path: pathlib.Path, shape: tuple[int, ...], framing: str
) -> UInt8[np.ndarray, "height width channel"]:
    try:
        return read_picture(path, shape, framing)
    except UnreadablePicture as error:
        raise UserError(f"cannot read {printable(str(path))}: {error}. Repair or remove it") from error
