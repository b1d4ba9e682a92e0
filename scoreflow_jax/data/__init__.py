"""Data sets: `base.py` holds the contract, one kind of source a file, `pipeline.py` the way to batches.

Sources that need Pillow are imported when first used: on a machine without it the others work.
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from scoreflow_jax.data.arrays import Arrays
from scoreflow_jax.data.base import (
    SKETCH,
    DataSource,
    DataSpec,
    Example,
    Examples,
    NoExamples,
    check_spec,
    class_counts,
    numbered,
    read_all,
    spread,
)
from scoreflow_jax.data.combined import Merged, Selected
from scoreflow_jax.data.digits import Digits
from scoreflow_jax.data.packed import Packed, is_packed
from scoreflow_jax.data.pairs import Pairs
from scoreflow_jax.data.table import Table, Units
from scoreflow_jax.data.toy import Toy
from scoreflow_jax.data.trained_on import FACTS, TrainedOn
from scoreflow_jax.errors import UserError
from scoreflow_jax.settings.data import POINT_SOURCES, DataSettings
from scoreflow_jax.settings.fields import FieldError, checked

if TYPE_CHECKING:
    from scoreflow_jax.data.image_folder import ImageFolder as ImageFolder
    from scoreflow_jax.data.tfds import TfdsImages as TfdsImages

_NEED_PILLOW = {"ImageFolder": "image_folder", "TfdsImages": "tfds"}


def __getattr__(name: str) -> Any:
    """Imports a source that needs Pillow on first use."""
    if name not in _NEED_PILLOW:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NEED_PILLOW[name]}"), name)


def _check_pillow(what: str) -> None:
    """Says what it takes before an import fails.

    Raises:
        UserError: Pillow is missing.
    """
    if importlib.util.find_spec("PIL") is None:
        raise UserError(
            f"{what} needs Pillow, which is not installed: pip install pillow. A data set can also be an npz, "
            "--config.data.source=arrays --config.data.path=FILE.npz"
        )


def _with_pillow(name: str) -> Callable[[str, DataSettings], DataSource]:
    def opened(split: str, data: DataSettings) -> DataSource:
        _check_pillow(f"config.data.source={data.source}")
        return __getattr__(name)(split, data)

    return opened


def read_pictures(
    folder: str, shape: tuple[int, ...], framing: str = "crop", white_level: int | None = None
) -> tuple[tuple[str, ...], UInt8[np.ndarray, "batch height width channel"]]:
    """Reads the pictures of a folder, and their names, by `image_folder.read_pictures`.

    Args:
        folder, shape, framing, white_level: as of that function.

    Raises:
        UserError: Pillow is missing, or whatever that says.
    """
    _check_pillow(f"the folder of pictures {folder}")
    from scoreflow_jax.data.image_folder import read_pictures as read

    return read(folder, shape, framing, white_level)


def _merged(split: str, data: DataSettings) -> DataSource:
    """`data.parts`, each with its own fields in place of those of `data`."""
    own = {name: changed(data, {"classes": (), **data.parts[name]}, f"data.parts.{name}") for name in data.parts}
    return Merged({name: open_source(split, own[name]) for name in sorted(own)})


SOURCES: dict[str, Callable[[str, DataSettings], DataSource]] = {
    "arrays": Arrays,
    "digits": lambda split, data: Digits(split),
    "tfds": _with_pillow("TfdsImages"),
    "image_folder": _with_pillow("ImageFolder"),
    "merged": _merged,
    "table": Table,
    "toy": Toy,
}
"""Every kind of source by the name that `config.data.source` gives it, opened for "train" or "test" and, as far as it needs
them, the settings of `config.data`."""


def open_source(split: str, data: DataSettings) -> DataSource:
    """Opens a split of the data that the settings describe; packed data where their path is a pack, of whatever source.

    Args:
        split: "train" or "test"; `data.train_split` and `data.test_split` say what the data set calls it.
        data: `config.data`.

    Raises:
        UserError: whatever the source says.
    """
    if is_packed(data.path):
        source: DataSource = Packed(str(data.path), split, data)
    else:
        source = SOURCES[data.source](split, data)
    return Selected(source, data.classes) if data.classes else source


PART_FIELDS = (
    "source", "name", "path", "train_split", "test_split", "framing", "white_level", "test_share", "strict", "label",
    "classes", "columns",
)  # fmt: skip
"""Fields that parts of merged data, and the data at t = 0, can have of their own; the others are those of `config.data`."""


def changed(data: DataSettings, fields: dict[str, Any], where: str) -> DataSettings:
    """Returns the settings with some fields replaced, and without parts, base, units and pairs.

    Args:
        data: the settings to start from.
        fields: new values by the fields' names, which must be in `PART_FIELDS`.
        where: the place of these fields in the config, for messages, such as "data.base".

    Raises:
        UserError: a field that config.data does not have, naming its place.
    """
    unknown = [name for name in fields if name not in PART_FIELDS]
    if unknown:
        raise UserError(f"config.{where} has {unknown[0]!r}, expected of config.data's fields {', '.join(PART_FIELDS)}")
    fields = checked(DataSettings, where, fields)
    try:
        return dataclasses.replace(data, parts={}, base={}, units={}, pairs=None, **fields)
    except FieldError as error:
        raise UserError(f"config.{where}.{error}") from error


def check_settings(settings: DataSettings) -> None:
    """Refuses values of `config.data` that do not go together, which no source checks.

    Raises:
        UserError: the first that is out of range.
    """
    if settings.label is not None and settings.source not in ("tfds", "table"):
        raise UserError(
            f"config.data.label is {settings.label!r}, but classes of {settings.source} are not features or columns: leave it"
        )
    _check_shape(settings)
    if settings.num_classes is None:
        raise UserError("config.data.num_classes is None: give a number, or let experiment.resolve look at the data")
    if settings.sampling == "balanced" and settings.num_classes < 2:
        raise UserError("config.data.sampling is 'balanced', but the data have no classes: set it to 'natural'")
    for where, fields in (
        ("data.base", settings.base),
        *((f"data.parts.{name}", part) for name, part in settings.parts.items()),
    ):
        if fields:
            check_settings(dataclasses.replace(changed(settings, fields, where), num_classes=0, sampling="natural"))


def _check_shape(settings: DataSettings) -> None:
    """Shape and levels: images have pixels, tables have points.

    Raises:
        UserError: they do not go together.
    """
    shape, images = settings.shape, not settings.is_points
    if (settings.source in POINT_SOURCES) == images:
        raise UserError(
            f"config.data.levels is {settings.levels}, but config.data.source is {settings.source!r}: expected 0 for a "
            "table or toy points, and for nothing else"
        )
    base = settings.base.get("source", settings.source)
    if settings.base and (base in POINT_SOURCES) != (settings.source in POINT_SOURCES):
        raise UserError(
            f"config.data.base.source is {base!r}, but config.data.source {settings.source!r}: take two of images, or of points"
        )
    if len(shape) != (3 if images else 1) or min(shape) < 1:
        axes = "(height, width, channels)" if images else "(dimension,), or () to find it in the table"
        raise UserError(f"config.data.shape is {shape}, expected {axes}")
    if images and shape[2] not in (1, 3):
        raise UserError(f"config.data.shape is {shape}, expected 1 channel (grey) or 3 (RGB)")


__all__ = [
    "FACTS",
    "PART_FIELDS",
    "SKETCH",
    "SOURCES",
    "Arrays",
    "DataSource",
    "DataSpec",
    "Digits",
    "Example",
    "Examples",
    "ImageFolder",
    "Merged",
    "NoExamples",
    "Packed",
    "Pairs",
    "Selected",
    "Table",
    "TfdsImages",
    "Toy",
    "TrainedOn",
    "Units",
    "changed",
    "check_settings",
    "check_spec",
    "class_counts",
    "is_packed",
    "numbered",
    "open_source",
    "read_all",
    "read_pictures",
    "spread",
]
