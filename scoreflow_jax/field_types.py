"""Whether values of a config are of the types that its parts ask for: JSON and command lines know few, and Python asks late."""

import dataclasses
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from scoreflow_jax.errors import UserError

_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "None",
    dict: "a section",
}


def checked(constructor: Callable[..., Any], section: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Refuses a value of another type than the constructor's annotation, where that is one of plain values.

    Args:
        constructor: a dataclass, or a function.
        section: of the config, for the message; "" for fields of the config itself.
        fields: names to values; those that the constructor does not have are left to it.

    Returns:
        The same, whole numbers as floats where those are asked for.

    Raises:
        UserError: naming field, value and type.
    """
    hints, found = _hints(constructor), dict(fields)
    for name, value in fields.items():
        if name not in hints:
            continue
        if not _fits(value, hints[name]):
            where = ".".join(part for part in ("config", section, name) if part)
            raise UserError(f"{where} is {value!r}, expected {_words(hints[name])}")
        if type(value) is int and _is_float(hints[name]):
            found[name] = float(value)
    return found


def _hints(constructor: Callable[..., Any]) -> dict[str, Any]:
    """Annotations by name of what a constructor takes."""
    while isinstance(constructor, functools.partial):
        constructor = constructor.func
    owner = (
        constructor
        if dataclasses.is_dataclass(constructor) or not inspect.isclass(constructor)
        else constructor.__init__
    )
    try:
        return typing.get_type_hints(owner)
    except NameError:  # of a library's own fields, such as flax's parent
        bases = reversed(constructor.__mro__) if inspect.isclass(constructor) else ()
        return {name: hint for base in bases for name, hint in vars(base).get("__annotations__", {}).items()}


def _fits(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(_fits(item, args[0]) for item in value)
        return len(value) == len(args) and all(map(_fits, value, args))
    if origin is dict or hint is dict:
        return isinstance(value, Mapping)
    if hint is float:
        return type(value) in (int, float) and not math.isnan(value)
    return type(value) is hint if hint in (bool, int, str, type(None)) else True


def _is_float(hint: Any) -> bool:
    kinds = typing.get_args(hint) or (hint,)
    return float in kinds and int not in kinds


def _words(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_words, args))
    if origin is tuple:
        inner = {_words(arg) for arg in args if arg is not Ellipsis}
        of = f" of {inner.pop().removeprefix('a ')}s" if len(inner) == 1 and args[0] in (int, float) else ""
        return f"a tuple{of}"
    return _WORDS.get(origin or hint, "another value")
