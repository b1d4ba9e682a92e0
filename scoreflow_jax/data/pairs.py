"""Pairs of reflow: points at t = 0 and what a model's ODE made of them, in shards of plain arrays, read as they are needed.

A folder holds pairs.json, which says what they are of, for each shard x0_<i>.npy, x1_<i>.npy, float32, and labels_<i>.npy, and
SHA256SUMS of all of these, with which every shard is compared when the pairs are opened.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from scoreflow_jax import sums
from scoreflow_jax.data.base import DataSource, DataSpec, Example, Examples
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.progress import progress
from scoreflow_jax.user_paths import user_path

ABOUT = "pairs.json"


class Pairs(DataSource):
    """The pairs of a folder: "base" at t = 0, "image" at t = 1, both as the ODE has them, neither mirrored nor rounded."""

    def __init__(self, folder: str | pathlib.Path, spec: DataSpec) -> None:
        """Opens the shards without reading them.

        Args:
            folder: written by --mode=reflow.
            spec: of the data that the pairs' model generates.

        Raises:
            UserError: no pairs there, some missing, or of another shape.
        """
        folder = user_path(folder)
        try:
            about = sums.read_json(folder / ABOUT)
            count, size = int(about["num_pairs"]), int(about["shard_size"])
            self.class_names = tuple(map(str, about["data"]["class_names"]))
            self.facts: dict[str, Any] = dict(about["data"]["facts"])
            made = {**about["made"]}
            self._stated = sums.read_sums(folder)
        except sums.Damaged as error:
            raise UserError(f"{error}: remove {folder} and run --mode=reflow again") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder} holds no pairs ({first_line(error)}): make them by --mode=reflow") from error
        if self._stated is None:
            sums.say_without(folder)
        self._folder, self._count, self._size, self.spec = folder, count, size, spec
        self._open: dict[int, tuple[np.ndarray, ...]] = {}
        with progress("comparing sums of pairs", count, " pairs") as bar:
            for number in range(-(-count // size)):
                rows = min(size, count - number * size)
                self._check(number, (rows, *spec.shape))
                bar.update(rows)
        self.facts = {**self.facts, "kind": "pairs", "of": made, "sketch": [str(made.get("parameters"))[:16]]}

    def _check(self, number: int, shape: tuple[int, ...]) -> None:
        """Refuses a shard whose files are not those that were written, or of another shape."""
        names = shard_names(number)
        try:
            if self._stated is not None:
                sums.check_files(self._folder, self._stated, names)
            found = [np.load(self._folder / name, mmap_mode="r") for name in names]
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise UserError(
                f"shard {number} of the pairs in {self._folder} is missing or damaged ({first_line(error)}): run --mode=reflow "
                "again, which makes what is not there"
            ) from error
        if found[0].shape != shape or found[1].shape != shape or found[2].shape != shape[:1]:
            raise UserError(f"shard {number} of the pairs in {self._folder} has {found[1].shape}, expected {shape}")

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files: worker processes open their own."""
        return {**self.__dict__, "_open": {}}

    def _shard(self, number: int) -> tuple[np.ndarray, ...]:
        if number not in self._open:
            self._open[number] = tuple(np.load(self._folder / name, mmap_mode="r") for name in shard_names(number))
        return self._open[number]

    def __len__(self) -> int:
        """The number of pairs."""
        return self._count

    def __getitem__(self, index: int) -> Example:
        """One pair."""
        x0, x1, labels = self._shard(index // self._size)
        row = index % self._size
        pair: Any = {"image": np.array(x1[row]), "base": np.array(x0[row]), "label": np.int32(labels[row])}
        return pair

    def read(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """Several pairs, stacked."""
        pairs: Any = [self[int(i)] for i in indices]
        stacked: Any = {name: np.stack([pair[name] for pair in pairs]) for name in ("image", "base", "label")}
        return stacked

    def labels(self) -> Int32[np.ndarray, " pairs"]:
        """All labels."""
        shards = range(-(-self._count // self._size))
        return np.concatenate([np.asarray(self._shard(i)[2]) for i in shards]).astype(np.int32)


def shard_names(number: int) -> tuple[str, ...]:
    """The files of a shard: x0, x1 and, written last, the labels."""
    return tuple(f"{kind}_{number:06d}.npy" for kind in ("x0", "x1", "labels"))
