"""Two-dimensional densities of known shape, drawn anew from a fixed seed: to see in a minute what a method does."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int32

from scoreflow_jax.data.base import DataSource, DataSpec, Example, Examples
from scoreflow_jax.errors import UserError
from scoreflow_jax.host_typing import HostPoints
from scoreflow_jax.settings.data import DataSettings

COUNTS = {"train": 50_000, "test": 5_000}

Labels = Int32[np.ndarray, " points"]


@dataclasses.dataclass(frozen=True)
class _Density:
    """How to draw a density.

    Attributes:
        draw: points and labels from a generator and a number of them.
        classes: names of its classes; none: it has no labels.
        center, scale: what standardizes it, near its mean and its standard deviation in either coordinate.
        entropy: in nats; None where it has no closed form.
    """

    draw: Callable[[np.random.Generator, int], tuple[HostPoints, Labels]]
    classes: tuple[str, ...]
    center: tuple[float, float]
    scale: float
    entropy: float | None = None


def _checkerboard(rng: np.random.Generator, count: int) -> tuple[HostPoints, Labels]:
    """Uniform on the eight black squares, of side 2, of a board from -4 to 4."""
    column, half = rng.integers(0, 4, count), rng.integers(0, 2, count)
    row = 2 * half + column % 2
    squares = np.stack([column, row], axis=1) * 2.0 - 4.0
    return squares + rng.uniform(0.0, 2.0, (count, 2)), np.zeros(count, np.int32)


def _moons(rng: np.random.Generator, count: int) -> tuple[HostPoints, Labels]:
    """Two interleaving half circles of radius 1 with noise of deviation 0.1, a class each (as scikit-learn's make_moons)."""
    label, angle = rng.integers(0, 2, count), rng.uniform(0.0, np.pi, count)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1.0 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    points = np.where(label[:, None] == 0, upper, lower)
    return points + rng.normal(scale=0.1, size=(count, 2)), label.astype(np.int32)


_RING, _WIDTH = 4.0, 0.3


def _gaussians(rng: np.random.Generator, count: int) -> tuple[HostPoints, Labels]:
    """Eight Gaussians of deviation 0.3 around a circle of radius 4, a class each."""
    label = rng.integers(0, 8, count)
    angle = label * np.pi / 4
    means = _RING * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return means + rng.normal(scale=_WIDTH, size=(count, 2)), label.astype(np.int32)


DENSITIES = {
    # 32 of area; variance 16/3 in either coordinate.
    "checkerboard": _Density(_checkerboard, (), (0.0, 0.0), 4.0 / 3.0**0.5, float(np.log(32.0))),
    "moons": _Density(_moons, ("upper", "lower"), (0.5, 0.25), 0.7),
    # The Gaussians hardly overlap: log 8 more than the entropy of one.
    "gaussians": _Density(
        _gaussians, tuple("01234567"), (0.0, 0.0), 2.85, float(np.log(8.0) + 1.0 + np.log(2.0 * np.pi * _WIDTH**2))
    ),
}
"""Every density by the name that `config.data.name` gives it."""


class Toy(DataSource):
    """The points of one split, standardized; see `facts` for shift and scale."""

    def __init__(self, split: str, settings: DataSettings) -> None:
        """Draws the split, "train" or "test".

        Args:
            split: each has a seed of its own.
            settings: name of `config.data`.

        Raises:
            UserError: an unknown density or split.
        """
        if settings.name not in DENSITIES:
            raise UserError(f"config.data.name is {settings.name!r}, expected one of {', '.join(DENSITIES)}")
        if split not in COUNTS:
            raise UserError(f"toy data have no split {split!r}, expected one of {', '.join(COUNTS)}")
        density = DENSITIES[settings.name]
        rng = np.random.default_rng(list(COUNTS).index(split))
        points, self._labels = density.draw(rng, COUNTS[split])
        self._points = ((points - np.asarray(density.center)) / density.scale).astype(np.float32)
        self.class_names = density.classes
        self.spec = DataSpec(shape=(2,), num_classes=len(density.classes), levels=0)
        self.facts = {
            "kind": "toy",
            "name": settings.name,
            "columns": ["x", "y"],
            "shift": list(density.center),
            "scale": [density.scale] * 2,
            "entropy": density.entropy,
        }

    def __len__(self) -> int:
        """The number of points."""
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        """One point."""
        return {"image": self._points[index], "label": self._labels[index]}

    def read(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """Several points."""
        indices = np.asarray(indices, np.int64)
        return {"image": self._points[indices], "label": self._labels[indices]}

    def labels(self) -> Int32[np.ndarray, " examples"]:
        """All labels."""
        return self._labels
