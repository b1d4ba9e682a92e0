"""Fields of a config: each states its default, what it may be and what it means, once, in the class of its section.

Such a class is a dataclass whose fields are made by `field`. What a section configures inherits its class, so that the fields of
a path or a network are the section's and stand nowhere else; command-line help, checks and the configs' defaults are read from
there. Nothing in this package imports JAX or flax: configs, --help and --mode=status stay instant.
"""

import dataclasses
import functools
import inspect
import math
import operator
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from scoreflow_jax.errors import UserError, nearest

_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "None",
    dict: "a section",
}
_LIMITS: tuple[tuple[str, Callable[[Any, Any], Any], str], ...] = (
    ("least", operator.ge, "at least {}"),
    ("above", operator.gt, "more than {}"),
    ("most", operator.le, "at most {}"),
    ("below", operator.lt, "less than {}"),
)
_MISSING = dataclasses.MISSING


class FieldError(ValueError):
    """A value that a field may not have. Its text begins with the field's name."""


def field(
    default: Any,
    meaning: str,
    *,
    least: int | float | None = None,
    above: int | float | None = None,
    most: int | float | None = None,
    below: int | float | None = None,
    was: str | None = None,
    added: bool = False,
) -> Any:
    """A field of a section; its type is its annotation, of which `typing.Literal` lists the values that it may have.

    Args:
        default: its value where a config says nothing; a dict is copied for each section.
        meaning: what it means, for --help.
        least, above, most, below: what a number, or each of several, must be at least, more than, at most and less than.
        was: the name of the section's field that older configs have in its place (`plain_config.FORMER`).
        added: whether it came after configs had hashes: at its default it is no part of them, so that they stay what they were.
    """
    limits = {"least": least, "above": above, "most": most, "below": below}
    metadata = {
        "meaning": meaning,
        "limits": {k: v for k, v in limits.items() if v is not None},
        "was": was,
        "added": added,
    }
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def subsection(section: type["Section"]) -> Any:
    """A section within a section, of which a config may leave out any field."""
    return dataclasses.field(default_factory=section, metadata={"meaning": ""})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """Fields that belong together, checked when they are set."""

    def __post_init__(self) -> None:
        """Checks every field by itself.

        Raises:
            FieldError: a value that its field may not have.
        """
        check_fields(self)


def declared(section: type) -> dict[str, dataclasses.Field]:
    """The fields of a section by name, without those that a class adds which no config states."""
    return {f.name: f for f in dataclasses.fields(section) if "meaning" in f.metadata}


def nested(section: type, name: str) -> type[Section] | None:
    """The class of the section within a section that a field is; None for other fields."""
    hint = annotations(section).get(name)
    return hint if inspect.isclass(hint) and issubclass(hint, Section) else None


def default_of(member: dataclasses.Field) -> Any:
    """The default of a field, a new one each time where it can be changed."""
    return member.default if member.default is not _MISSING else member.default_factory()  # type: ignore[misc]


@functools.cache
def annotations(section: type) -> dict[str, Any]:
    """Types of the fields by name, those of base classes too, which may be flax's."""
    return {name: hint for base in reversed(section.__mro__) for name, hint in inspect.get_annotations(base).items()}


def check_fields(section: Any) -> None:
    """Checks choices and limits of every field of a section.

    Raises:
        FieldError: the first value that its field may not have.
    """
    hints = annotations(type(section))
    for name, member in declared(type(section)).items():
        value = getattr(section, name)
        if nested(type(section), name) is None and not _allowed(value, hints[name], member.metadata["limits"]):
            raise FieldError(f"{name} is {value!r}, expected {_expected(member, hints[name])}")


def checked(section: type, where: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Refuses fields that a section does not have, and values that they may not have: JSON and command lines know few types.

    Args:
        section: a class of fields.
        where: its place in the config, for the message, such as "train"; "" for the config itself.
        values: names to values.

    Returns:
        The same, whole numbers as floats where those are asked for.

    Raises:
        UserError: naming field, value and type.
    """
    known, hints, found = declared(section), annotations(section), dict(values)
    for name, value in values.items():
        place = ".".join(part for part in ("config", where, name) if part)
        if name not in known:
            raise UserError(f"{place} is no field of this section{nearest(name, known)}; it has {', '.join(known)}")
        if nested(section, name) is not None:
            continue
        if not _fits(value, hints[name]):
            raise UserError(f"{place} is {value!r}, expected {_words(hints[name])}")
        if not _allowed(value, hints[name], known[name].metadata["limits"]):
            raise UserError(f"{place} is {value!r}, expected {_expected(known[name], hints[name])}")
        found[name] = _as_float(value, hints[name])
    return found


def build_section(section: Callable[..., Any], where: str, values: Mapping[str, Any], **built: Any) -> Any:
    """Makes a section, or what inherits one, of a config's values.

    Args:
        section: a class of fields.
        where: its place in the config, for messages.
        values: of its fields; those that are left out have their defaults.
        built: what it takes besides, already built.

    Raises:
        UserError: an unknown field, or a value that it does not accept.
    """
    owner: Any = section
    found = checked(owner, where, values)
    for name, value in found.items():
        inner = nested(owner, name)
        if inner is not None:
            if not isinstance(value, Mapping):
                raise UserError(f"config.{where}.{name} is {value!r}, expected a section")
            found[name] = build_section(inner, f"{where}.{name}", value)
    try:
        return section(**found, **built)
    except FieldError as error:
        raise UserError(f"{'.'.join(filter(None, ('config', where)))}.{error}") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"config.{where}: {error}") from error


def defaults(section: type) -> dict[str, Any]:
    """Names to defaults, of sections within it dicts of the same."""
    found = {}
    for name, member in declared(section).items():
        inner = nested(section, name)
        found[name] = default_of(member) if inner is None else defaults(inner)
    return found


def described(section: type, prefix: str) -> Iterator[tuple[str, str, str]]:
    """(name, default and what it may be, meaning) of every field, for --help."""
    hints = annotations(section)
    for name, member in declared(section).items():
        inner = nested(section, name)
        if inner is not None:
            yield from described(inner, f"{prefix}{name}.")
            continue
        what = _range(member, hints[name])
        yield prefix + name, f"{default_of(member)!r}" + (f" ({what})" if what else ""), member.metadata["meaning"]


def choices(hint: Any) -> tuple[Any, ...]:
    """The values that an annotation lists, itself or for each of several; () for one that lists none."""
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    return tuple(value for arg in typing.get_args(hint) for value in choices(arg))


def may_be_none(hint: Any) -> bool:
    """Whether None is a value."""
    return hint is type(None) or type(None) in typing.get_args(hint)


def plain_type(hint: Any) -> type | None:
    """The type of an annotation's values other than None: of `str | None` str, of a tuple tuple; None where it is open."""
    kinds = [arg for arg in (typing.get_args(hint) if _is_union(hint) else (hint,)) if arg is not type(None)]
    if len(kinds) != 1:
        return None
    origin = typing.get_origin(kinds[0])
    if origin is typing.Literal:
        return type(typing.get_args(kinds[0])[0])
    found = origin or kinds[0]
    return found if inspect.isclass(found) and found is not Any else None


def _allowed(value: Any, hint: Any, limits: Mapping[str, Any]) -> bool:
    """Whether a value, and of several each, is a choice and within the limits."""
    if value is None:
        return may_be_none(hint)
    listed = choices(hint)
    many = isinstance(value, (tuple, list)) and plain_type(hint) is tuple
    for item in value if many else (value,):
        if listed and item not in listed:
            return False
        try:
            if not all(test(item, limits[name]) for name, test, _ in _LIMITS if name in limits):
                return False
        except TypeError:
            return False
    return True


def _expected(member: dataclasses.Field, hint: Any) -> str:
    """What a field may be, for the one who gave it something else: with an example where the words alone may not do."""
    words = _range(member, hint) or _words(hint)
    default = default_of(member)
    example = f", such as {default!r}" if default not in (None, (), 0, 0.0, 1, False, "") and not choices(hint) else ""
    return words + example


def _range(member: dataclasses.Field, hint: Any) -> str:
    """Choices or limits in words; empty where there are none."""
    listed, limits = choices(hint), member.metadata["limits"]
    many = plain_type(hint) is tuple
    if listed:
        kinds = ", ".join(map(str, listed))
        found = f"values among {kinds}" if many else f"one of {kinds}"
    elif limits == {"above": 0}:
        found = "positive numbers" if many else "a positive number"
    elif limits:
        found = " and ".join(words.format(_number(limits[name])) for name, _, words in _LIMITS if name in limits)
        found = f"numbers of {found}" if many else found
    else:
        return ""
    return found + (", or None" if may_be_none(hint) else "")


def _number(value: int | float) -> str:
    return "2^32" if value == 2**32 else f"{value:g}" if isinstance(value, float) else str(value)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _fits(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint):
        return any(_fits(value, arg) for arg in args)
    if origin is typing.Literal:
        return any(type(value) is type(arg) for arg in args)
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


def _as_float(value: Any, hint: Any) -> Any:
    """Whole numbers as floats where those are asked for, in tuples too."""
    if plain_type(hint) is tuple and isinstance(value, (tuple, list)):
        return tuple(_as_float(item, typing.get_args(hint)[0]) for item in value)
    return float(value) if type(value) is int and _is_float(hint) else value


def _is_float(hint: Any) -> bool:
    kinds = typing.get_args(hint) or (hint,)
    return float in kinds and int not in kinds


def _words(hint: Any) -> str:
    """A type for a person."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint):
        return " or ".join(map(_words, args))
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is tuple:
        inner = {_words(arg) for arg in args if arg is not Ellipsis}
        of = f" of {inner.pop().removeprefix('a ')}s" if len(inner) == 1 and args[0] in (int, float) else ""
        return f"a tuple{of}"
    return _WORDS.get(origin or hint, "another value")
