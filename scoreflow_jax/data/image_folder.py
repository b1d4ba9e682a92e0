"""Pictures from folders of the user's own: sub-folders are classes, loose pictures have none."""

import os
import pathlib
import sys
from typing import Any

import numpy as np
from jaxtyping import Int, Int32, UInt8

from scoreflow_jax.data.base import DataSource, DataSpec, Example
from scoreflow_jax.data.folder_scan import Scan, refuse_skipped, scan_folder, warning_of
from scoreflow_jax.data.obtain import how_to_get
from scoreflow_jax.data.pictures import FILTER, UnreadablePicture, printable, read_picture, suffixes
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
        root = _given_folder(settings)
        folder = _split_folder(root, split, settings)
        scan = scan_folder(folder or root)
        height, width, channels = settings.shape
        smallest = -(-min(height, width) // ENLARGED)
        chosen = scan.sides >= smallest
        tiny = {
            printable(scan.names[int(i)]): f"tiny: {scan.sides[i]} pixels, expected {smallest} at least"
            for i in np.flatnonzero(~chosen)
        }
        _tell({**scan.skipped, **tiny}, scan.root, strict=settings.strict)
        held_out = "a folder of its own"
        if folder is None:
            chosen &= (scan.hashes / 2.0**64 < settings.test_share) == (split == "test")
            held_out = f"{settings.test_share:g} of the files, by their names' hash"
        classes, labels = _classes(scan, root, folder, settings)
        self._keep(scan, np.flatnonzero(chosen), len(tiny), split, settings)
        self._labels = labels[self._chosen]
        self.spec = DataSpec(shape=(height, width, channels), num_classes=len(classes) if len(classes) > 1 else 0)
        self.class_names = tuple(printable(name) for name in classes)
        self.facts: dict[str, Any] = {
            "kind": "folder of pictures",
            "filter": FILTER,
            "framing": settings.framing,
            "held_out": held_out,
            "sketch": list(scan.sketch),
        }

    def _keep(
        self, scan: Scan, chosen: Int[np.ndarray, " chosen"], tiny: int, split: str, settings: DataSettings
    ) -> None:
        """Keeps the scan and the numbers of the files chosen from it."""
        self._root, self._names, self._framing = scan.root, scan.names, settings.framing
        self._chosen = chosen
        if not len(self._chosen):
            raise UserError(
                f"no pictures of {printable(str(scan.root))} are in the split {split!r}: of {len(scan.names)} readable ones "
                f"{tiny} are too small for config.data.shape, and of the others config.data.test_share={settings.test_share:g} "
                "holds out a part by their names' hash. Add pictures, change that share, or make folders train and test"
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


def _given_folder(settings: DataSettings) -> pathlib.Path:
    if settings.path is None:
        raise UserError(
            f"no folder of pictures is given for {settings.name}: set config.data.path (of a part or a base: that one's path) "
            f"to a folder with a sub-folder for each class, or with pictures.{how_to_get(settings.name)}"
        )
    root = pathlib.Path(settings.path).expanduser()
    if not os.path.isdir(root):
        raise UserError(
            f"config.data.path is {printable(settings.path)}, which is not a folder; expected a folder of pictures, or of one "
            f"sub-folder for each class.{how_to_get(settings.name)}"
        )
    return root


def _split_folder(root: pathlib.Path, split: str, settings: DataSettings) -> pathlib.Path | None:
    """<root>/<split> where the folder comes with its splits; else None, and splits are made."""
    if not os.path.isdir(root / settings.train_split):
        return None
    own = settings.split_name(split)
    others = _TEST_FOLDERS if split == "test" else ()
    folder = next((root / name for name in (own, *others) if os.path.isdir(root / name)), None)
    if folder is None:
        raise UserError(
            f"{printable(str(root))} has a folder {settings.train_split!r} but no {own!r} beside it: make one, or call it "
            f"{' or '.join(others)}; where {settings.train_split!r} is a class, set config.data.train_split to another name"
        )
    if not folder.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"{printable(str(folder))} leads out of the folder, of which nothing outside is read: copy the pictures into it, or "
            "set config.data.path to where they are"
        )
    return folder


def _classes(
    scan: Scan, root: pathlib.Path, folder: pathlib.Path | None, settings: DataSettings
) -> tuple[tuple[str, ...], Int32[np.ndarray, " files"]]:
    """Class names and the label of every file. A test folder's classes are the training folder's, of which it may lack some."""
    train, own = root / settings.train_split, scan.class_names
    names = own if folder in (None, train) else scan_folder(train).class_names
    if max(len(names), len(own)) < 2:
        return names, np.zeros(len(scan.names), np.int32)
    unknown = [name for name in own or ("(none)",) if name not in names]
    if unknown:
        raise UserError(
            f"{printable(str(folder))} has the classes {printable(', '.join(unknown))}, expected some of the training pictures' "
            f"{printable(', '.join(names)) or '(none)'}: make the same sub-folders in both"
        )
    return names, np.asarray([names.index(name) for name in own], np.int32)[scan.labels]


def _tell(skipped: dict[str, str], root: pathlib.Path, *, strict: bool) -> None:
    """Refuses what cannot be used, or warns of it, once."""
    if strict:
        refuse_skipped(skipped, root)
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
    if not os.path.isdir(root):
        raise UserError(f"{printable(folder)} is not a folder; expected a folder of pictures")
    found = sorted(
        path for path in root.iterdir() if path.suffix.lower() in suffixes() and not path.name.startswith(".")
    )[:limit]
    if not found:
        raise UserError(f"no pictures in {printable(folder)}; expected files such as a.jpg or a.png")
    return np.stack([_read_or_name(path, shape, framing) for path in found])


def _read_or_name(
    path: pathlib.Path, shape: tuple[int, ...], framing: str
) -> UInt8[np.ndarray, "height width channel"]:
    try:
        return read_picture(path, shape, framing)
    except UnreadablePicture as error:
        raise UserError(f"cannot read {printable(str(path))}: {error}. Repair or remove it") from error
