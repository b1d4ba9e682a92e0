"""Data sets: `base.py` holds the contract, one kind of source a file, `pipeline.py` the way to batches."""

from collections.abc import Callable

from scoreflow_jax.data.base import Example, Examples, ImageSource, ImageSpec, check_spec, read_all
from scoreflow_jax.data.digits import Digits
from scoreflow_jax.data.image_folder import ImageFolder
from scoreflow_jax.data.tfds import TfdsImages
from scoreflow_jax.settings import DataSettings

SOURCES: dict[str, Callable[[str, DataSettings], ImageSource]] = {
    "digits": lambda split, data: Digits(split),
    "tfds": lambda split, data: TfdsImages(data.name, split, data.dir),
    "image_folder": lambda split, data: ImageFolder(data.dir, data.name, split, data.shape),
}
"""Every kind of source by the name that `config.data.source` gives it, opened for a split and as far as it needs them the
settings of `config.data`."""

__all__ = [
    "SOURCES",
    "Digits",
    "Example",
    "Examples",
    "ImageFolder",
    "ImageSource",
    "ImageSpec",
    "TfdsImages",
    "check_spec",
    "read_all",
]
