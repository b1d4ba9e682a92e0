"""Data sets: `base.py` holds the contract, one kind of source a file, `pipeline.py` the way to batches."""

from collections.abc import Callable

from scoreflow_jax.data.base import Example, Examples, ImageSource, ImageSpec, check_spec, read_all
from scoreflow_jax.data.digits import Digits
from scoreflow_jax.data.tfds import TfdsImages

SOURCES: dict[str, Callable[[str, str, str | None], ImageSource]] = {
    "digits": lambda split, name, folder: Digits(split),
    "tfds": lambda split, name, folder: TfdsImages(name, split, folder),
}
"""Every kind of source by the name that `config.data.source` gives it, opened for a split, the data set's own name and the
folder where data sets lie, as far as it needs them."""

__all__ = [
    "SOURCES",
    "Digits",
    "Example",
    "Examples",
    "ImageSource",
    "ImageSpec",
    "TfdsImages",
    "check_spec",
    "read_all",
]
