"""Data sets packed once at the training size: raw pixels in array_record files, so that training decodes nothing.

A pack is a folder of <split>-00000-of-00003.array_record, each record the pixels of an image, row by row; of <split>-labels.npy;
of SHA256SUMS of the labels (records have sums of their own, which array_record compares); and of info.json, written last: without
it the pack is not whole. The only module that knows array_record.
"""

import itertools
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int32

from scoreflow_jax import sums
from scoreflow_jax.data.base import DataSource, DataSpec, Example, Examples, NoExamples
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.progress import progress
from scoreflow_jax.settings.data import DataSettings
from scoreflow_jax.user_paths import user_path

INFO = "info.json"
_FORMAT = "scoreflow_jax pack 1"
_NAME = re.compile(
    rf"(train|test)-(\d{{5}}-of-\d{{5}}\.array_record|labels\.npy)|{sums.SUMS}"
)  # of the files that a pack has and may lose
_MADE_WITH = ("framing", "white_level", "test_share", "label")  # fields of config.data that a pack has settled
_KEYS = {"shape", "num_classes", "levels", "class_names", "facts", "made_with", "splits"}
_SHARD_BYTES = 2**30
_CHUNK = 256
# One record is one unit of reading. Pixels hardly compress, and uncompressed ones need no time to unpack.
_WRITER = "group_size:1,uncompressed"
_READER = "readahead_buffer_size:0,max_parallelism:0"


def is_packed(folder: str | pathlib.Path | None) -> bool:
    """Whether a folder is a whole pack."""
    return folder is not None and _read_info(user_path(folder)) is not None


class Packed(DataSource):
    """One split of a pack."""

    def __init__(self, folder: str | pathlib.Path, split: str, settings: DataSettings | None = None) -> None:
        """Opens it.

        Args:
            folder: of the pack.
            split: "train" or "test", as training uses them.
            settings: where given, what the pack settled must be the same there.

        Raises:
            UserError: no whole pack, no such split in it, other settings, or a file of it missing, cut short or out of place.
        """
        self._folder = user_path(folder)
        info = _read_info(self._folder)
        if info is None:
            raise UserError(f"{folder} holds no whole pack (no usable {INFO}): make it with --mode=pack --out={folder}")
        for name, made in info["made_with"].items() if settings is not None else ():
            if made != (wanted := getattr(settings, name, None)):
                raise UserError(
                    f"the pack {folder} was made with config.data.{name}={made!r}, which is {wanted!r} now: give the same, or "
                    "pack the data again"
                )
        if split not in info["splits"]:
            raise NoExamples(
                f"the pack {folder} has no split {split!r}, expected {' or '.join(info['splits'])}: there were no images in "
                "it when it was packed"
            )
        height, width, channels = info["shape"]
        self.spec = DataSpec((height, width, channels), info["num_classes"], info["levels"])
        self.class_names = tuple(info["class_names"])
        self.facts = {**info["facts"], "packed": True}
        count = len(info["splits"][split])
        self._shards = [
            (self._folder / f"{split}-{i:05d}-of-{count:05d}.array_record", records)
            for i, records in enumerate(info["splits"][split])
        ]
        self._ends = np.cumsum([records for _, records in self._shards])
        self._labels = self._read_labels(self._folder / _labels_name(split))
        self._readers: dict[tuple[int, int], Any] = {}
        for shard in range(len(self._shards)):
            self._reader(shard)

    def __len__(self) -> int:
        """The number of images."""
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Example:
        """One image."""
        found = self.read([index])
        return {"image": found["image"][0], "label": found["label"][0]}

    def read(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """Several images, in one call for each file that holds some of them."""
        indices = np.asarray(indices, np.int64)
        pixels = np.empty((len(indices), int(np.prod(self.spec.shape))), np.uint8)
        shards = np.searchsorted(self._ends, indices, side="right")
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            first = int(self._ends[shard]) - self._shards[shard][1]
            try:
                records = self._reader(shard).read((indices[here] - first).tolist())
                pixels[here] = np.frombuffer(b"".join(records), np.uint8).reshape(len(here), -1)
            except (ValueError, IndexError, RuntimeError) as error:
                path = self._shards[shard][0]
                raise UserError(f"{path} is damaged ({first_line(error)}): pack the data again") from error
        return {"image": pixels.reshape(-1, *self.spec.shape), "label": self._labels[indices]}

    def labels(self) -> Int32[np.ndarray, " examples"]:
        """All labels."""
        return self._labels

    def _read_labels(self, path: pathlib.Path) -> Int32[np.ndarray, " examples"]:
        try:
            if not sums.check_sums(self._folder, lambda name: name == path.name):
                sums.say_without(self._folder)
            labels = np.load(path, allow_pickle=False).astype(np.int32)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"cannot read {path} ({first_line(error)}): pack the data again") from error
        if labels.shape != (self._ends[-1],):
            raise UserError(f"{path} has {labels.size} labels, expected {self._ends[-1]}: pack the data again")
        if labels.min() < 0 or labels.max() >= max(1, self.spec.num_classes):
            raise UserError(f"{path} has labels outside its {self.spec.num_classes} classes: pack the data again")
        return labels

    def _reader(self, shard: int) -> Any:
        """The reader of a file, opened anew in every process that this one is copied or forked to."""
        key = (os.getpid(), shard)
        if key not in self._readers:
            module, (path, records) = _array_record(), self._shards[shard]
            if path.is_symlink():
                raise UserError(f"{path} is a link, expected a file of the pack: copy it there, or pack the data again")
            try:
                reader = module.ArrayRecordReader(str(path), options=_READER, file_reader_buffer_size=4096)
                found = reader.num_records()
            except (ValueError, RuntimeError, OSError) as error:
                raise UserError(f"cannot read {path} ({first_line(error)}): pack the data again") from error
            if found != records:
                raise UserError(f"{path} has {found} records, expected {records}: pack the data again")
            self._readers[key] = reader
        return self._readers[key]

    def __getstate__(self) -> dict[str, Any]:
        """Readers are not copied."""
        return {**self.__dict__, "_readers": {}}


def write_pack(
    folder: str | pathlib.Path, splits: dict[str, DataSource], settings: DataSettings | None = None
) -> dict[str, Any]:
    """Packs the splits of a data set, with a bar.

    Args:
        folder: to make, or empty, or left by a packing that was stopped.
        splits: sources by the names "train" and "test".
        settings: `config.data`, with which they were opened.

    Returns:
        What info.json says.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    folder = user_path(folder)
    try:
        _array_record()
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        shards = {split: _write_split(folder, split, source) for split, source in splits.items()}
        sums.write_sums(folder, [_labels_name(split) for split in splits])
        first = next(iter(splits.values()))
        info = {
            "format": _FORMAT,
            "shape": first.spec.shape,
            "num_classes": first.spec.num_classes,
            "levels": first.spec.levels,
            "class_names": first.class_names,
            "facts": first.facts,
            "made_with": {name: getattr(settings, name) for name in _MADE_WITH if settings is not None},
            "splits": shards,
        }
        sums.write_json(folder / INFO, info)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({first_line(error)}): give another --out") from error
    return info


def _clear(folder: pathlib.Path) -> None:
    """Removes what a stopped packing left; refuses anything else."""
    here = sorted(path.name for path in folder.iterdir())
    if INFO in here:
        raise UserError(f"{folder} holds a pack already: use it as config.data.path, remove it, or give another --out")
    foreign = [name for name in here if not _NAME.fullmatch(name)]
    if foreign:
        raise UserError(f"{folder} holds {foreign[0]!r}, expected an empty folder: give another --out")
    for name in here:
        (folder / name).unlink()


def _array_record() -> Any:
    """The module of array_record.

    Raises:
        UserError: it is missing.
    """
    try:
        from array_record.python import array_record_module
    except ModuleNotFoundError as error:
        raise UserError(
            "packs need array_record, which is not installed: pip install array_record, or give the data themselves as "
            "config.data.path"
        ) from error
    return array_record_module


def _write_split(folder: pathlib.Path, split: str, source: DataSource) -> list[int]:
    """Writes a split's files; returns how many images each holds."""
    module = _array_record()
    count = -(-len(source) * int(np.prod(source.spec.shape)) // _SHARD_BYTES)
    bounds = np.linspace(0, len(source), count + 1).astype(int)
    labels = []
    with progress(f"packing {split}", len(source), " images") as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for shard, (first, last) in enumerate(itertools.pairwise(bounds)):
            name = f"{split}-{shard:05d}-of-{count:05d}.array_record"
            writer = module.ArrayRecordWriter(str(folder / name), _WRITER)
            for examples in _read_ahead(source, range(first, last), pool):
                _write(writer, examples)
                labels.append(examples["label"])
                bar.update(len(examples["label"]))
            _write(writer, None)
    with (folder / _labels_name(split)).open("wb") as file:
        np.save(file, np.concatenate(labels))
    return [int(last - first) for first, last in itertools.pairwise(bounds)]


def _write(writer: Any, examples: Examples | None) -> None:
    """Writes the images, or closes the file; array_record's errors, such as a full disk, are RuntimeErrors."""
    try:
        for image in examples["image"] if examples is not None else ():
            writer.write(image.tobytes())
        if examples is None:
            writer.close()
    except RuntimeError as error:
        raise OSError(first_line(error)) from error


def _read_ahead(source: DataSource, numbers: range, pool: ThreadPoolExecutor) -> Iterator[Examples]:
    """Examples in order, read by all threads, some parts at a time: memory stays flat."""
    parts = [numbers[i : i + _CHUNK] for i in range(0, len(numbers), _CHUNK)]
    group = (os.cpu_count() or 1) * 2
    for first in range(0, len(parts), group):
        yield from pool.map(source.read, parts[first : first + group])


def _labels_name(split: str) -> str:
    return f"{split}-labels.npy"


def _read_info(folder: pathlib.Path) -> dict[str, Any] | None:
    """What info.json says; None where there is no whole pack.

    Raises:
        UserError: it is damaged beside the files of a pack.
    """
    try:
        info, has_sum = sums.read_object(folder / INFO)
    except OSError:
        return None
    except sums.Damaged as error:
        if not any(folder.glob("*.array_record")):
            return None  # another program's info.json
        raise UserError(f"{error}: pack the data again") from error
    if info.get("format") != _FORMAT or not info.keys() >= _KEYS:
        return None
    if not has_sum:
        sums.say_without(folder / INFO)
    return info
