"""What a data set is to the rest of the package: a list of 8-bit images with labels, and four facts about them.

Random access is all that shuffling, sharding and exact resume need; `pipeline.py` does those the same way for every source.
"""

import dataclasses
from typing import Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import Int32, UInt8

from scoreflow_jax.errors import UserError


class Example(TypedDict):
    """One image with its class."""

    image: UInt8[np.ndarray, "height width channel"]
    label: np.int32


@dataclasses.dataclass(frozen=True)
class ImageSpec:
    """What a network and a metric must know of the data without reading them.

    Attributes:
        shape: (height, width, channels).
        num_classes: labels are in [0, num_classes); 0 for data without labels.
        levels: grey levels; pixels are 0 .. levels - 1.
    """

    shape: tuple[int, int, int]
    num_classes: int
    levels: int = 256


@runtime_checkable
class ImageSource(Protocol):
    """A random-access data set of one split. Must be picklable: worker processes get a copy.

    Attributes:
        spec: shape, classes and levels of its examples.
        class_names: a name for each class.
    """

    spec: ImageSpec
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def __getitem__(self, index: int) -> Example:
        """Example number `index`, in [0, len)."""
        ...


class Examples(TypedDict):
    """Several images with their classes, stacked."""

    image: UInt8[np.ndarray, "batch height width channel"]
    label: Int32[np.ndarray, " batch"]


def read_all(source: ImageSource, limit: int | None = None) -> Examples:
    """Reads the first `limit` examples, or all, into memory."""
    count = len(source) if limit is None else min(limit, len(source))
    examples = [source[i] for i in range(count)]
    return {
        "image": np.stack([e["image"] for e in examples]),
        "label": np.asarray([e["label"] for e in examples], np.int32),
    }


def check_spec(source: ImageSource, expected: ImageSpec, name: str) -> None:
    """Refuses a data set that is not what the config says of it.

    Raises:
        UserError: shape, number of classes or levels differ.
    """
    if source.spec != expected:
        raise UserError(
            f"data set {name!r} has {source.spec}, but the config describes {expected}: correct config.data"
        )
