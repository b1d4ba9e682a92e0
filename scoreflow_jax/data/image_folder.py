"""Pictures from folders of the user's own: sub-folders are classes, loose pictures have none."""

import dataclasses
import os
import pathlib
import sys
from typing import Any

import numpy as np
from jaxtyping import Int, Int32, UInt8

from scoreflow_jax.data.base import DataSource, DataSpec, Example, NoExamples
from scoreflow_jax.data.folder_scan import NOT_OURS, Scan, refuse_skipped, scan_folder, warning_of
from scoreflow_jax.data.obtain import how_to_get
from scoreflow_jax.data.pictures import FILTER, UnreadablePicture, printable, read_picture, suffixes, why_not_read
from scoreflow_jax.errors import UserError
from scoreflow_jax.settings import DataSettings
from scoreflow_jax.user_paths import user_path

ENLARGED = 4
"""Pictures that would have to be enlarged by more than this are tiny: they are skipped, or refused under strict."""

_TRAIN_FOLDERS = ("training",)
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
_LOOKED_AT = 1000
_TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")
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
        layout = _layout(_given_folder(settings), split, settings)
        scan = scan_folder(layout.folder)
        height, width, channels = settings.shape
        smallest = -(-min(height, width) // ENLARGED)
        chosen = scan.sides >= smallest
        tiny = {
            printable(scan.names[int(i)]): f"tiny: {scan.sides[i]} pixels, expected {smallest} at least"
            for i in np.flatnonzero(~chosen)
        }
        _tell({**layout.unread, **scan.skipped, **tiny}, scan.root, strict=settings.strict)
        classes, labels = _classes(scan, layout, smallest)
        held_out = "a folder of its own"
        if layout.by_hash:
            chosen &= (scan.hashes / 2.0**64 < settings.test_share) == (split == "test")
            held_out = f"{settings.test_share:g} of the files, by their names' hash"
        self._keep(scan, np.flatnonzero(chosen), len(tiny), split, settings)
        self._labels = labels[self._chosen]
        self.spec = DataSpec(shape=(height, width, channels), num_classes=len(classes) if len(classes) > 1 else 0)
        self.class_names = tuple(printable(name) for name in classes)
        self.facts: dict[str, Any] = {
            "kind": "folder of pictures",
            "filter": FILTER,
            "framing": settings.framing,
            "held_out": held_out,
            "jpeg": self._jpeg_share(),
            "sketch": list(scan.sketch),
        }

    def _keep(
        self, scan: Scan, chosen: Int[np.ndarray, " chosen"], tiny: int, split: str, settings: DataSettings
    ) -> None:
        """Keeps the scan and the numbers of the files chosen from it."""
        self._root, self._names, self._framing = scan.root, scan.names, settings.framing
        self._chosen = chosen
        if not len(self._chosen):
            raise NoExamples(
                f"no pictures of {printable(str(scan.root))} are in the split {split!r}: of {len(scan.names)} readable ones "
                f"{tiny} are too small for config.data.shape, and of the others config.data.test_share={settings.test_share:g} "
                "holds out a part by their names' hash. Add pictures, change that share, or make folders train and test"
            )

    def _jpeg_share(self) -> float:
        """The share of JPEG files by their names' endings, of some of them: a distance to others counts the compression too."""
        looked_at = self._chosen[np.unique(np.linspace(0, len(self._chosen) - 1, _LOOKED_AT).astype(int))]
        return float(np.mean([self._names[int(i)].lower().endswith(_JPEG) for i in looked_at]))

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
    root = user_path(settings.path)
    if not os.path.isdir(root):
        raise UserError(
            f"config.data.path is {printable(settings.path)}, which is not a folder; expected a folder of pictures, or of one "
            f"sub-folder for each class.{how_to_get(settings.name)}"
        )
    return root


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Where the pictures of a split are.

    Attributes:
        folder: to scan.
        train: the training pictures' folder, whose sub-folders are the classes of both splits.
        by_hash: whether files are held out of that folder by their names; else test pictures have a folder of their own.
        unread: sub-folders beside those of the splits.
    """

    folder: pathlib.Path
    train: pathlib.Path
    by_hash: bool
    unread: dict[str, str]


def _layout(root: pathlib.Path, split: str, settings: DataSettings) -> _Layout:
    """Folders train and test, whatever their case, where there are any; else splits are made."""
    folders = sorted(
        e.name
        for e in _entries(root)
        if os.path.isdir(e.path) and not e.name.startswith(".") and e.name not in NOT_OURS
    )
    for name in (settings.train_split, settings.test_split):
        if pathlib.PurePath(name).name != name:
            raise UserError(f"the split {printable(name)!r} leads out of the folder, of which nothing outside is read")
    named = {name.casefold(): name for name in folders}
    train = _first_of(named, (settings.train_split, *(_TRAIN_FOLDERS if settings.train_split == "train" else ())))
    if train is None:
        return _Layout(root, root, True, {})
    test = _first_of(named, (settings.test_split, *_TEST_FOLDERS))
    others = [name for name in folders if name not in (train, test)]
    if test is None and others:
        raise UserError(
            f"{printable(str(root))} has a folder {train!r} beside {printable(', '.join(others[:3]))}, but none called "
            f"{settings.test_split!r}: make one; or, where {train!r} is a class, set config.data.train_split to another name"
        )
    for name in (train, test):
        if name is not None and not (root / name).resolve().is_relative_to(root.resolve()):
            raise UserError(
                f"{printable(str(root / name))} leads out of the folder, of which nothing outside is read: copy the pictures "
                "into it, or set config.data.path to where they are"
            )
    folder = root / (train if split == "train" or test is None else test)
    reason = "beside the folders of the splits, so not read"
    return _Layout(folder, root / train, test is None, {printable(name): reason for name in others})


def _entries(root: pathlib.Path) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(root))
    except OSError as error:
        raise UserError(f"cannot list {printable(str(root))} ({why_not_read(error)})") from error


def _first_of(named: dict[str, str], wanted: tuple[str, ...]) -> str | None:
    return next((named[name.casefold()] for name in wanted if name.casefold() in named), None)


def _classes(scan: Scan, layout: _Layout, smallest: int) -> tuple[tuple[str, ...], Int32[np.ndarray, " files"]]:
    """Names of the classes with training pictures that are large enough, and the label of every file, -1 of the others'."""
    train = scan if layout.folder == layout.train else scan_folder(layout.train)
    own, sides = scan.class_names, scan.sides
    names = (
        tuple(train.class_names[c] for c in np.unique(train.labels[train.sides >= smallest]))
        if train.class_names
        else ()
    )
    if max(len(names), len(own)) < 2:
        return names, np.zeros(len(scan.names), np.int32)
    used = {own[c] if own else "(none)" for c in np.unique(scan.labels[sides >= smallest])}
    unknown = sorted(used - {*names})
    if unknown:
        raise UserError(
            f"{printable(str(scan.root))} has the classes {printable(', '.join(unknown))}, expected some of the training "
            f"pictures' {printable(', '.join(names)) or '(none)'}: make the same sub-folders in both"
        )
    return names, np.asarray([names.index(name) if name in names else -1 for name in own], np.int32)[scan.labels]


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
    root = user_path(folder)
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
