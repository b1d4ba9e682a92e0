"""What a data set is to the rest of the package: a list of 8-bit images with labels, and a few facts about them.

Random access is all that shuffling, sharding and exact resume need; `pipeline.py` does those the same way for every source.
"""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any, Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Int32, UInt8

from scoreflow_jax.errors import UserError
from scoreflow_jax.settings.data import Framing

FRAMINGS = typing.get_args(Framing)
"""How pictures of other proportions are brought to the training shape; `pictures.py` does it."""

SKETCH = 32
"""Hashes in a sketch of data: the smallest of all, so that two sketches have in common what the data have."""


class NoExamples(UserError):
    """A split without a single example."""


class Example(TypedDict):
    """One image with its class, or one point of a table."""

    image: UInt8[np.ndarray, "height width channel"] | Float[np.ndarray, " dimension"]
    label: np.int32


class Examples(TypedDict):
    """Several of them, stacked."""

    image: UInt8[np.ndarray, "batch height width channel"] | Float[np.ndarray, "batch dimension"]
    label: Int32[np.ndarray, " batch"]


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """What a network and a metric must know of the data without reading them.

    Attributes:
        shape: (height, width, channels) of images, (dimension,) of points.
        num_classes: labels are in [0, num_classes); 0 for data without labels.
        levels: grey levels; pixels are 0 .. levels - 1. 0 for points, which are real numbers.
    """

    shape: tuple[int, ...]
    num_classes: int
    levels: int = 256

    @property
    def is_points(self) -> bool:
        """Whether the examples are points of real numbers, not images."""
        return not self.levels

    @property
    def words(self) -> str:
        """What it says, for a message."""
        what = "points" if self.is_points else f"images of {self.levels} grey levels"
        return f"{what}, of shape {self.shape}, in {self.num_classes or 'no'} classes"


@runtime_checkable
class DataSource(Protocol):
    """A random-access data set of one split. Must be picklable: worker processes get a copy.

    A source states `__len__`, `__getitem__`, `spec` and `class_names`; the rest follows, and it overrides what it can do faster.

    Attributes:
        spec: shape, classes and levels of its examples.
        class_names: a name for each class; of data without labels empty, or the one name that all of them have.
        labels_at_hand: whether `labels` is quick.
        facts: what a report should say of where the data come from, as plain values.
    """

    spec: DataSpec
    class_names: tuple[str, ...]
    labels_at_hand: bool = True
    facts: dict[str, Any] = {}  # noqa: RUF012

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def __getitem__(self, index: int) -> Example:
        """Example number `index`, in [0, len)."""
        ...

    def read(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """Several examples, stacked."""
        examples = [self[int(i)] for i in indices]
        return {
            "image": np.stack([e["image"] for e in examples]),
            "label": np.asarray([e["label"] for e in examples], np.int32),
        }

    def labels(self) -> Int32[np.ndarray, " examples"]:
        """All labels."""
        return np.asarray([self[i]["label"] for i in range(len(self))], np.int32)


def read_all(source: DataSource, limit: int | None = None) -> Examples:
    """Reads the first `limit` examples, or all, into memory."""
    return source.read(np.arange(len(source) if limit is None else min(limit, len(source))))


def spread(labels: Int32[np.ndarray, " examples"], count: int) -> Int[np.ndarray, " chosen"]:
    """Numbers of at most `count` examples, going round the classes: sources may list one class after the other."""
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    rank = np.empty(len(labels), np.int64)  # of each example within its class
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.lexsort((labels, rank))[:count]


def class_counts(source: DataSource) -> list[int] | None:
    """How many examples each class has; one number for data without labels; None where every example would have to be read."""
    if not source.spec.num_classes:
        return [len(source)]
    return np.bincount(source.labels(), minlength=source.spec.num_classes).tolist() if source.labels_at_hand else None


def numbered(names: Sequence[str]) -> list[str]:
    """Each class's number and name, for a person; only once where all names are the numbers, as the digits' are."""
    numbers = [str(i) for i in range(len(names))]
    return numbers if list(names) == numbers else [f"{i} {name}" for i, name in enumerate(names)]


def check_spec(source: DataSource, expected: DataSpec, name: str, *, with_classes: bool = True) -> None:
    """Refuses a data set that is not what the config says of it.

    Args:
        source: the data set, opened.
        expected: what the config says of it.
        name: `config.data.name`, for the message.
        with_classes: whether the number of classes matters too.

    Raises:
        UserError: shape, levels or, where they matter, the number of classes differ.
    """
    found = source.spec if with_classes else dataclasses.replace(source.spec, num_classes=expected.num_classes)
    if found != expected:
        raise UserError(
            f"data set {name!r} has {found.words}, but the config describes {expected.words}: correct config.data; "
            "if these are a pack, pack the data anew with this config"
        )
