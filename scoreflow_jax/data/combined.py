"""Sources made of other sources: some classes of one, or several as one class each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from scoreflow_jax.data.base import DataSource, DataSpec, Example, Examples, NoExamples, numbered
from scoreflow_jax.errors import UserError


class Selected(DataSource):
    """The examples of some classes, which are numbered anew in the order given."""

    def __init__(self, source: DataSource, classes: tuple[int, ...]) -> None:
        """Reads the labels.

        Args:
            source: with classes.
            classes: their numbers; a single one makes data without labels.

        Raises:
            UserError: classes that the source does not have, or the same one twice.
        """
        count = source.spec.num_classes
        if not count:
            raise UserError(f"config.data.classes is {classes}, but these data have no classes: leave it empty")
        if len(set(classes)) < len(classes) or any(not 0 <= c < count for c in classes):
            names = ", ".join(numbered(source.class_names))
            raise UserError(
                f"config.data.classes is {classes}, expected different numbers from 0 to {count - 1}: {names}"
            )
        number = np.full(count, -1, np.int32)
        number[list(classes)] = np.arange(len(classes))
        own = source.labels()
        labels = np.where(
            own >= 0, number[own], -1
        )  # some test splits of tensorflow-datasets are labelled -1 throughout
        self._source, self._chosen = source, np.flatnonzero(labels >= 0)
        self._labels = labels[self._chosen] if len(classes) > 1 else np.zeros(len(self._chosen), np.int32)
        self.class_names = tuple(source.class_names[c] for c in classes)
        self.spec = DataSpec(source.spec.shape, len(classes) if len(classes) > 1 else 0, source.spec.levels)
        self.facts = {**source.facts, "classes": list(classes)}
        if not len(self._chosen):
            raise NoExamples(f"there are no examples of class {' or '.join(self.class_names)}")

    def __len__(self) -> int:
        """The number of examples of these classes."""
        return len(self._chosen)

    def __getitem__(self, index: int) -> Example:
        """One of them."""
        return {"image": self._source[int(self._chosen[index])]["image"], "label": self._labels[index]}

    def read(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """Several of them."""
        indices = np.asarray(indices, np.int64)
        return {"image": self._source.read(self._chosen[indices])["image"], "label": self._labels[indices]}

    def labels(self) -> Int32[np.ndarray, " examples"]:
        """All labels."""
        return self._labels


class Merged(DataSource):
    """Several sources one after the other, each being one class, whatever classes it has itself."""

    def __init__(self, parts: dict[str, DataSource]) -> None:
        """Joins them.

        Args:
            parts: by the name of the class, in the order of the classes; at least two, of one shape.

        Raises:
            UserError: fewer, or of different shapes or levels.
        """
        if len(parts) < 2:
            raise UserError(
                f"config.data.parts has {len(parts)} parts, expected at least two, each of which becomes a class"
            )
        looks = {name: (part.spec.shape, part.spec.levels) for name, part in parts.items()}
        shape, levels = next(iter(looks.values()))
        if len(set(looks.values())) > 1:
            raise UserError(f"the parts of config.data.parts have different shapes and levels: {looks}")
        self._parts = list(parts.values())
        self._ends = np.cumsum([len(part) for part in self._parts])
        self.class_names = tuple(parts)
        self.spec = DataSpec(shape, len(parts), levels)
        self.facts: dict[str, Any] = {"parts": {name: part.facts for name, part in parts.items()}}
        if all("jpeg" in part.facts for part in parts.values()):
            self.facts["jpeg"] = sum(part.facts["jpeg"] * len(part) for part in parts.values()) / int(self._ends[-1])

    def __len__(self) -> int:
        """The number of examples of all parts together."""
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Example:
        """One example."""
        part = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[part]) - len(self._parts[part])
        return {"image": self._parts[part][int(index) - first]["image"], "label": np.int32(part)}

    def read(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """Several examples, in one call for each part that holds some of them."""
        indices = np.asarray(indices, np.int64)
        parts = np.searchsorted(self._ends, indices, side="right").astype(np.int32)
        images = np.empty((len(indices), *self.spec.shape), np.uint8)
        for number in np.unique(parts).tolist():
            here = parts == number
            first = int(self._ends[number]) - len(self._parts[number])
            images[here] = self._parts[number].read(indices[here] - first)["image"]
        return {"image": images, "label": parts}

    def labels(self) -> Int32[np.ndarray, " examples"]:
        """All labels."""
        return np.repeat(np.arange(len(self._parts), dtype=np.int32), [len(part) for part in self._parts])
