"""Pictures from folders and zips of the user's own: sub-folders are classes, loose pictures have none."""

import dataclasses
import os
import pathlib
import sys
import zipfile
from typing import Any

import numpy as np
from jaxtyping import Int, Int32, UInt8

from scoreflow_jax.data import archives, dataset_json
from scoreflow_jax.data.base import DataSource, DataSpec, Example, NoExamples
from scoreflow_jax.data.folder_scan import NOT_OURS, Scan, refuse_skipped, scan_folder, warning_of
from scoreflow_jax.data.obtain import how_to_get
from scoreflow_jax.data.pictures import FILTER, UnreadablePicture, printable, read_picture, suffixes, why_not_read
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.settings.data import DataSettings
from scoreflow_jax.user_paths import user_path

ENLARGED = 4
"""Pictures that would have to be enlarged by more than this are tiny: they are skipped, or refused under strict."""

_TRAIN_FOLDERS = ("training",)
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
_LOOKED_AT = 1000
_CLASSES_SHOWN = 5
_DEEPEST = 8  # folders within folders of which each holds nothing but the next
_TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")
_warned: set[tuple[str, ...]] = set()  # what was said in this process is not said again for the other split


class ImageFolder(DataSource):
    """The pictures of one split of a folder.

    Layouts: <path>/<class>/... and <path>/... without sub-folders, from which every file is held out or not by a hash of its
    own name, so that new files change nothing for old ones; <path>/train/..., <path>/test/... of either kind; and those of
    `dataset_json.py`, where a file says which classes the pictures have. Where all is in one sub-folder that has several, these
    are the classes.
    """

    def __init__(self, split: str, settings: DataSettings) -> None:
        """Scans the folder.

        Args:
            split: "train" or "test".
            settings: path, shape, framing, white_level, test_share and strict of `config.data`.

        Raises:
            UserError: no path, no such folder, no pictures in it or in this split of it, a file that cannot be used under
                strict, or two classes that other systems would not tell apart.
        """
        layout = _layout(_given_folder(settings), split, settings)
        listed = _Listed.of(layout)
        scan = scan_folder(layout.folder, with_classes=listed is None)
        height, width, channels = settings.shape
        smallest = -(-min(height, width) // ENLARGED)
        chosen = scan.sides >= smallest
        tiny = {
            printable(scan.names[int(i)]): f"tiny: {scan.sides[i]} pixels, expected {smallest} at least"
            for i in np.flatnonzero(~chosen)
        }
        unlisted = {} if listed is None else listed.differences(scan)
        chosen &= np.asarray([printable(name) not in unlisted for name in scan.names], bool) if unlisted else True
        _tell({**layout.unread, **scan.skipped, **unlisted, **tiny}, scan.root, strict=settings.strict)
        self._tell_of_dark(scan, settings)
        classes, labels = _classes(scan, layout, smallest) if listed is None else listed.classes(scan)
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
        self._white = settings.white_level
        self._chosen = chosen
        if not len(self._chosen):
            raise NoExamples(
                f"no pictures of {printable(str(scan.root))} are in the split {split!r}: of {len(scan.names)} readable ones "
                f"{tiny} are too small for config.data.shape, and of the others config.data.test_share={settings.test_share:g} "
                "holds out a part by their names' hash. Add pictures, change that share, or make folders train and test"
            )

    @staticmethod
    def _tell_of_dark(scan: Scan, settings: DataSettings) -> None:
        """Warns of pictures of 16 bits that use few of them: with white at 65535 they are almost black."""
        count, peak = int(np.sum(scan.peaks > 0)), int(scan.peaks.max(initial=0))
        white = settings.white_level or 65535
        if not count or white / 4 <= peak <= white:
            return
        bits = next((2**n - 1 for n in (8, 10, 12, 14, 16) if peak < 2**n), 65535)
        what = "are almost black" if peak < white else "are cut off above it"
        _say(
            f"the {count} pictures of 16 bits in {printable(scan.root.name)} go up to {peak}, and with white at {white} they "
            f"{what}: config.data.white_level={bits} if they have {bits.bit_length()} bits"
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
            image = read_picture(self._root / name, self.spec.shape, self._framing, self._white)
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
    if not archives.is_folder(root):
        raise UserError(
            f"config.data.path is {printable(settings.path)}, which is not a folder; expected a folder or zip of pictures, or of "
            f"one sub-folder for each class.{how_to_get(settings.name)}"
        )
    return root


@dataclasses.dataclass(frozen=True)
class _Listed:
    """The classes that a dataset.json states.

    Attributes:
        labels: by file of the split's folder; empty where the data have no classes.
        count: of classes, of all splits.
    """

    labels: dict[str, int]
    count: int

    @classmethod
    def of(cls, layout: "_Layout") -> "_Listed | None":
        """None where the split's folder has no such file."""
        labels = dataset_json.read_labels(layout.folder)
        if labels is None:
            return None
        train = labels if layout.folder == layout.train else dataset_json.read_labels(layout.train) or {}
        return cls(labels, max((label + 1 for label in (*labels.values(), *train.values())), default=0))

    def differences(self, scan: Scan) -> dict[str, str]:
        """Pictures without a label, and labels without a picture, with the reason."""
        if not self.labels:
            return {}
        known = {*scan.names}
        return {
            **{printable(name): f"without a label in {dataset_json.NAME}" for name in known - self.labels.keys()},
            **{
                printable(name): f"not there, but in {dataset_json.NAME}"
                for name in self.labels.keys() - known
                if printable(name) not in scan.skipped
            },
        }

    def classes(self, scan: Scan) -> tuple[tuple[str, ...], Int32[np.ndarray, " files"]]:
        """Names of the classes, their numbers, and the label of every file, -1 of those without one."""
        names = tuple(map(str, range(self.count)))
        if self.count < 2:
            return (), np.zeros(len(scan.names), np.int32)
        return names, np.asarray([self.labels.get(name, -1) for name in scan.names], np.int32)


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
    folders = _folders(root)
    for name in (settings.train_split, settings.test_split):
        if pathlib.PurePath(name).name != name:
            raise UserError(f"the split {printable(name)!r} leads out of the folder, of which nothing outside is read")
    named = {name.casefold(): name for name in folders}
    train = _first_of(named, (settings.train_split, *(_TRAIN_FOLDERS if settings.train_split == "train" else ())))
    if train is None:
        root = _descended(root)
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
    reason = "beside the folders of the splits, so not read"
    training = _descended(root / train)
    folder = training if split == "train" or test is None else _descended(root / test)
    return _Layout(folder, training, test is None, {printable(name): reason for name in others})


def _descended(root: pathlib.Path) -> pathlib.Path:
    """The folder itself; or the only one in it, and so on, whose several sub-folders with pictures are the classes then."""
    inner, classes = root, []
    for _ in range(_DEEPEST):
        if dataset_json.read_labels(inner) is not None or _has_pictures(inner):
            return root
        folders = _folders(inner)
        classes = [name for name in folders if _has_pictures(inner / name)]
        if len(folders) != 1 or classes:
            break
        inner /= folders[0]
    if len(classes) < 2:
        _tell_of_deeper(inner)
        return root
    if inner != root:
        _say(
            f"{printable(str(root))} holds nothing but {printable(inner.relative_to(root).as_posix())}: its sub-folders are the "
            f"classes, {_shown(classes)}"
        )
    return inner


def _tell_of_deeper(root: pathlib.Path) -> None:
    """Warns where what may be classes are further in than the sub-folders of `root`."""
    for folder in _folders(root):
        inner = root / folder
        deeper = [] if _has_pictures(inner) else [name for name in _folders(inner) if _has_pictures(inner / name)]
        if len(deeper) > 1:
            _say(
                f"the pictures of {printable(str(inner))} lie in its sub-folders {_shown(deeper)}, which are no classes: "
                f"config.data.path={printable(str(inner))} makes them classes"
            )
            return


def _shown(names: list[str]) -> str:
    more = ", ..." if len(names) > _CLASSES_SHOWN else ""
    return f"{printable(', '.join(names[:_CLASSES_SHOWN]))}{more}"


def _folders(root: pathlib.Path) -> list[str]:
    """Names of the sub-folders, but for hidden ones; zips in a folder are none, as nothing looks into them."""
    is_folder = os.path.isdir if archives.split_path(root) is None else archives.is_folder
    return sorted(
        name for name in _names(root) if not name.startswith(".") and name not in NOT_OURS and is_folder(root / name)
    )


def _has_pictures(root: pathlib.Path) -> bool:
    """Whether a file directly in the folder is a picture by its name. A folder may hold a million: the first one is enough."""
    if archives.split_path(root) is not None:
        return any(map(_is_picture, _names(root)))
    try:
        with os.scandir(root) as entries:
            return any(_is_picture(entry.name) for entry in entries)
    except OSError:
        return False  # whatever cannot be listed is told of by the scan


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes() and not name.startswith(".")


def _names(root: pathlib.Path) -> list[str]:
    try:
        return os.listdir(root) if archives.split_path(root) is None else archives.names_in(root)
    except OSError as error:
        raise UserError(f"cannot list {printable(str(root))} ({why_not_read(error)})") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"cannot read the zip {printable(str(root))} ({first_line(error)}): repair it") from error


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


def _say(text: str) -> None:
    """A warning, once in a process."""
    if (text,) not in _warned:
        _warned.add((text,))
        print(f"warning: {text}", file=sys.stderr)


def _tell(skipped: dict[str, str], root: pathlib.Path, *, strict: bool) -> None:
    """Refuses what cannot be used, or warns of it, once."""
    if strict:
        refuse_skipped(skipped, root)
    said = (str(root), *skipped)
    if skipped and said not in _warned:
        _warned.add(said)
        print(warning_of(skipped, root), file=sys.stderr)


def read_pictures(
    folder: str, shape: tuple[int, ...], framing: str = "crop", white_level: int | None = None
) -> tuple[tuple[str, ...], UInt8[np.ndarray, "batch height width channel"]]:
    """Reads the pictures of a folder, in order of their names, at the given size.

    Args:
        folder: searched without its sub-folders; a zip file is one too.
        shape: (height, width, channels), with 1 channel (grey) or 3 (RGB).
        framing: one of `FRAMINGS`, see `pictures.py`.
        white_level: see `pictures.read_picture`.

    Returns:
        Names, and pixels 0 .. 255.

    Raises:
        UserError: no such folder, no picture in it, or one that cannot be read.
    """
    root = user_path(folder)
    if not archives.is_folder(root):
        raise UserError(f"{printable(folder)} is not a folder; expected a folder of pictures")
    found = sorted(name for name in _names(root) if _is_picture(name))
    if not found:
        raise UserError(
            f"no pictures in {printable(folder)} itself, and folders in it are not read here; expected files such as a.jpg"
        )
    read = [_read_or_name(root / name, shape, framing, white_level) for name in found]
    return tuple(map(printable, found)), np.stack(read)


def _read_or_name(
    path: pathlib.Path, shape: tuple[int, ...], framing: str, white_level: int | None
) -> UInt8[np.ndarray, "height width channel"]:
    try:
        return read_picture(path, shape, framing, white_level)
    except UnreadablePicture as error:
        raise UserError(f"cannot read {printable(str(path))}: {error}. Repair or remove it") from error
