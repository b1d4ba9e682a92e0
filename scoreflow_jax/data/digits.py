"""scikit-learn's 1,797 handwritten digits: 8x8, 17 grey levels, 10 classes, inside the package, so never a download."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from scoreflow_jax.data.base import DataSource, DataSpec, Example, Examples
from scoreflow_jax.errors import UserError

SPLITS = ("train", "test")
_TEST_SHARE = 5  # one in five of each class is held out: 1,433 train, 364 test
_SHUFFLE_SEED = 0  # of the order from which they are held out; scikit-learn's order goes writer by writer


class Digits(DataSource):
    """The digits of one split (Alpaydin and Kaynak, UCI optical recognition of handwritten digits).

    Raises:
        UserError: an unknown split, or scikit-learn missing.
    """

    def __init__(self, split: str) -> None:
        """Loads the split, "train" or "test"."""
        if split not in SPLITS:
            raise UserError(f"the digits have no split {split!r}, expected one of {', '.join(SPLITS)}")
        self.spec = DataSpec(shape=(8, 8, 1), num_classes=10, levels=17)
        self.class_names = tuple("0123456789")
        self.facts = {"kind": "scikit-learn's digits", "held_out": "a fifth of each class, in a fixed random order"}
        images, labels = _load()
        chosen = _split_indices(labels)[split]
        self._images, self._labels = images[chosen], labels[chosen]

    def __len__(self) -> int:
        """The number of digits."""
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        """One digit."""
        return {"image": self._images[index], "label": self._labels[index]}

    def read(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """Several digits."""
        indices = np.asarray(indices, np.int64)
        return {"image": self._images[indices], "label": self._labels[indices]}

    def labels(self) -> Int32[np.ndarray, " examples"]:
        """All labels."""
        return self._labels


@functools.cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    return np.reshape(pixels, (-1, 8, 8, 1)).astype(np.uint8), np.asarray(labels, np.int32)


def _split_indices(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Holds out every fifth digit of each class, in a fixed random order."""
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(labels))
    rank = np.empty(len(labels), int)  # of each digit within its class
    for digit in range(10):
        members = order[labels[order] == digit]
        rank[members] = np.arange(len(members))
    test = rank % _TEST_SHARE == 0
    return {"train": np.flatnonzero(~test), "test": np.flatnonzero(test)}
