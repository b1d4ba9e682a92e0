"""Data sets: `base.py` holds the contract, one kind of source a file, `pipeline.py` the way to batches."""

from collections.abc import Callable

from scoreflow_jax.data.base import Example, Examples, ImageSource, ImageSpec, check_spec, read_all
from scoreflow_jax.data.digits import Digits
from scoreflow_jax.data.tfds import TfdsImages

SOURCES: dict[str, Callable[..., ImageSource]] = {"digits": Digits, "tfds": TfdsImages}
"""Every kind of source by the name that `config.data.source` gives it."""

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
