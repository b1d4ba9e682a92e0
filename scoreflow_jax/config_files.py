"""Configs as JSON, which every run writes into its workdir: read, and changed field by field. Nothing but Python is needed."""

import ast
import dataclasses
import json
import typing
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any

from scoreflow_jax import settings
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.user_paths import user_path

_SETTINGS: dict[str, Any] = {
    "data": settings.DataSettings,
    "train": settings.TrainSettings,
    "sample": settings.SampleSettings,
    "translate": settings.TranslateSettings,
    "interpolate": settings.InterpolateSettings,
    "figures": settings.FiguresSettings,
    "eval": settings.EvalSettings,
}
"""What knows the defaults of fields that older runs lack, and which fields may be None."""

_TRUTH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def is_json(file: str) -> bool:
    """Whether a config is JSON, by its name."""
    return file.lower().endswith(".json")


def read_json(file: str) -> dict[str, Any]:
    """Reads a config, such as runs/digits/config.json, with the path's end as it was where it does not say (`settings.with_end`).

    Raises:
        UserError: no such file, or one that is no config.
    """
    path = user_path(file)
    if not path.is_file():
        raise UserError(f"no config file {file}; expected one such as the config.json in the workdir of a run")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"cannot read {file} ({first_line(error)}); expected JSON, such as a run's config.json"
        ) from error
    kinds = {"name": str, "seed": int}
    if (
        not isinstance(config, dict)
        or not {"name", "seed", "model"} <= config.keys()
        or not all(isinstance(value, kinds.get(name, dict)) for name, value in config.items())
    ):
        raise UserError(f"{file} is no config; expected a name, a seed and sections, such as in a run's config.json")
    return settings.with_end(config)


def fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names to present values, with the defaults of fields that the config of an older run lacks."""
    defaults = {
        f"{section}.{field.name}": field.default
        for section, owner in _SETTINGS.items()
        for field in dataclasses.fields(owner)
        if field.default is not dataclasses.MISSING
    }
    chosen = {f"{section}.{name}": None for section, names in settings.MEMBERS.items() for name in names}
    return {**chosen, **defaults, **dict(_dotted(config))}


def left_behind(config: settings.Config, values: Mapping[str, str]) -> list[tuple[str, str]]:
    """Sections and fields that belong to the part whose place another one takes: that one has its own defaults.

    Args:
        config: before any change.
        values: the changes, dotted names to texts.
    """
    return [
        (section, field)
        for section in settings.MEMBERS
        if section in config and values.get(f"{section}.name", config[section]["name"]) != config[section]["name"]
        for field in config[section]
        if field != "name" and f"{section}.{field}" not in values
    ]


def changed(config: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """The config with other values in some fields.

    Args:
        config: as read.
        values: dotted names among `fields`, and texts. Each is read as the type of the value in its place: tuples as Python
            writes them, and in place of None whatever Python writes, or else text.

    Raises:
        UserError: a value of another type.
    """
    present, new = fields(config), dict(config)
    for section, field in left_behind(config, values):
        new[section] = {name: value for name, value in new[section].items() if name != field}
    for name, text in values.items():
        place = new
        *sections, last = name.split(".")
        for section in sections:
            place[section] = dict(place.get(section, {}))  # what was read stays as it is
            place = place[section]
        place[last] = _read(name, text, present[name])
    return new


def _dotted(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _read(name: str, text: str, present: Any) -> Any:
    """A value of the type of the present one."""
    kinds = _kinds(name)
    if text == "None" and (present is None or NoneType in kinds):
        return None
    if isinstance(present, str) or (present is None and str in kinds):
        return text
    reader, expected = next((r for kind, r in _READERS.items() if isinstance(present, kind)), (_literal, "a value"))
    try:
        return reader(text)
    except (KeyError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise UserError(
            f"--config.{name}={text} is not {expected}; expected one as in its place, {present!r}"
        ) from error


def _kinds(name: str) -> tuple[Any, ...]:
    """The types that the field may have, where they are stated."""
    section, _, field = name.partition(".")
    return typing.get_args(typing.get_type_hints(_SETTINGS[section]).get(field)) if section in _SETTINGS else ()


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _tuple(text: str) -> tuple[Any, ...]:
    value = ast.literal_eval(text)
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


_READERS: dict[Any, tuple[Any, str]] = {
    bool: (lambda text: _TRUTH[text.lower()], "True or False"),  # before int: a truth value is one of these too
    int: (int, "a whole number"),
    float: (float, "a number"),
    (list, tuple): (_tuple, "a tuple such as (1, 2)"),
}
"""How a text becomes a value of the type of the present one, and what to call that."""
