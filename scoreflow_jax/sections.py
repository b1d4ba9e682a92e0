"""The table of a config's sections: which fields there are, their defaults, and what --help says of them.

Neither this module nor what it imports imports JAX, flax or ml_collections.
"""

import dataclasses
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from scoreflow_jax.errors import UserError, nearest
from scoreflow_jax.evaluation.settings import EvalSettings
from scoreflow_jax.settings.commands import (
    DifferenceSettings,
    FiguresSettings,
    InterpolateSettings,
    PublishSettings,
    ReflowSettings,
    SampleSettings,
    StudySettings,
    TranslateSettings,
)
from scoreflow_jax.settings.data import DataSettings
from scoreflow_jax.settings.fields import declared, default_of, defaults, described, nested
from scoreflow_jax.settings.model import MODELS, Conditioning
from scoreflow_jax.settings.objective import OBJECTIVES
from scoreflow_jax.settings.path import PATHS, ParameterizationFields
from scoreflow_jax.settings.solve import SamplerFields, SolverFields
from scoreflow_jax.settings.times import TIMES
from scoreflow_jax.settings.train import Heads, OptimizerSettings, TrainSettings


@dataclasses.dataclass(frozen=True)
class Family:
    """A section whose `name` chooses one of several parts, each with fields of its own.

    Attributes:
        members: classes of fields by that name.
        default: the name where a config says nothing.
        shared: fields of the section besides any member's; None: there are none.
        stated: whether a new config states every field of the default member.
        optional: whether a field of a member may be None in a config, which then is the member's own default.
    """

    members: Mapping[str, type]
    default: str
    shared: type | None = None
    stated: bool = False
    optional: bool = True

    def fields(self, name: str) -> dict[str, tuple[type, dataclasses.Field]]:
        """The fields that the section has with a member, each with the class that declares it."""
        owners = [owner for owner in (self.shared, self.members[name]) if owner is not None]
        return {n: (owner, f) for owner in owners for n, f in declared(owner).items()}

    def every(self) -> dict[str, tuple[type, dataclasses.Field]]:
        """The fields that it has with one member or another."""
        return {n: found for name in self.members for n, found in self.fields(name).items()}

    def section(self, name: str, *, stated: bool = False) -> dict[str, Any]:
        """The section of a new config with a member.

        Args:
            name: of the member.
            stated: whether every field of it is stated. Else those that all members have with one default are, and any other is
                None, which is the member's own default, so that another name changes these too.
        """
        own = {n: default_of(f) for n, (_, f) in self.fields(name).items()}
        if not stated:
            tables = [{n: default_of(f) for n, (_, f) in self.fields(other).items()} for other in self.members]
            own = {n: v for n, v in own.items() if all(n in t and t[n] == v for t in tables)}
        return {"name": name, **dict.fromkeys(self.every()), **own}


SECTIONS: dict[str, type | Family] = {
    "data": DataSettings,
    "path": Family(PATHS, "linear"),
    "parameterization": ParameterizationFields,
    "objective": Family(OBJECTIVES, "path_constrained", stated=True),
    "times": Family(TIMES, "uniform"),
    "model": Family(MODELS, "ncsnpp", shared=Conditioning, stated=True, optional=False),
    "train": TrainSettings,
    "optimizer": OptimizerSettings,
    "solver": SolverFields,
    "sampler": SamplerFields,
    "sample": SampleSettings,
    "translate": TranslateSettings,
    "interpolate": InterpolateSettings,
    "figures": FiguresSettings,
    "eval": EvalSettings,
    "reflow": ReflowSettings,
    "difference": DifferenceSettings,
    "study": StudySettings,
    "publish": PublishSettings,
}
"""Every section of a config: the class of its fields, or the family of which its `name` chooses one."""

FAMILIES = {name: section for name, section in SECTIONS.items() if isinstance(section, Family)}

NEEDED = (
    "data",
    "path",
    "objective",
    "model",
    "optimizer",
    "train",
    "solver",
    "sample",
    "translate",
    "interpolate",
    "eval",
)
"""Sections that no config can lack; the others are younger than some runs, and have defaults."""


NEEDED_FIELDS = {
    "data": ("source", "shape"),
    "path": ("name",),
    "objective": ("name",),
    "model": ("name", "conditional", "dtype"),
}
"""Fields that no config can lack, since with their defaults it would be of something else; all others have theirs."""


def new_section(name: str) -> dict[str, Any]:
    """A section of a new config, every field at its default."""
    section = SECTIONS[name]
    return section.section(section.default, stated=section.stated) if isinstance(section, Family) else defaults(section)


def field_at(place: str, config: Mapping[str, Any]) -> tuple[type, dataclasses.Field] | None:
    """The field at a dotted place, with the class that declares it; None where no section has it.

    Args:
        place: such as "eval.straightness.images".
        config: whose families' names choose among their members; where the chosen one has no such field, another's is meant.
    """
    if place in (heads := declared(Heads)):
        return Heads, heads[place]
    name, *inner, last = place.split(".") if "." in place else (place, "")
    section = SECTIONS.get(name)
    if isinstance(section, Family):
        member = config.get(name, {}).get("name") if isinstance(config.get(name), Mapping) else None
        chosen = section.fields(member) if member in section.members else {}
        return None if inner else chosen.get(last) or section.every().get(last)
    owner: type | None = section
    for step in inner:
        owner = None if owner is None else nested(owner, step)
    found = None if owner is None else declared(owner).get(last)
    return None if owner is None or found is None or nested(owner, last) is not None else (owner, found)


def every_field() -> dict[str, Any]:
    """Dotted names of all fields to their defaults; of families those of every member, None where they do not all have them."""
    found: dict[str, Any] = {}
    for name, section in SECTIONS.items():
        own = _any_member(section) if isinstance(section, Family) else defaults(section)
        found.update(flatten(own, f"{name}.", empty=True))
    return found


def _any_member(family: Family) -> dict[str, Any]:
    return {"name": family.default, **dict.fromkeys(family.every())}


def flatten(plain: Mapping[str, Any], prefix: str = "", *, empty: bool = False) -> dict[str, Any]:
    """Dotted names to values.

    Args:
        plain: nested.
        prefix: of all names.
        empty: whether a section without fields is a value; else it leaves no trace.
    """
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping) and (value or not empty):
            flat.update(flatten(value, f"{prefix}{key}.", empty=empty))
        else:
            flat[prefix + key] = value
    return flat


_ABSENT = object()


def help_of(place: str, config: Mapping[str, Any] | None = None) -> str:
    """The fields at a place of the config, such as "model", "path.vp" or "eval.straightness", as text for a terminal.

    Args:
        place: the section, or a part or a field of it.
        config: whose values are named too, where they are not the defaults; None: none are.

    Raises:
        UserError: there is no such place.
    """
    config = config or {}
    name, *inner = place.split(".")
    if name in declared(Heads):
        return _text("", _marked([line for line in described(Heads, "") if line[0] == name], config))
    section = SECTIONS.get(name)
    if section is None:
        raise UserError(f"no section {name!r}{nearest(name, SECTIONS)}; expected {', '.join(SECTIONS)}")
    if isinstance(section, Family):
        return _help_of_family(name, section, inner, config)
    owner, here = section, name
    for step in inner:
        found = nested(owner, step)
        if found is None:
            if step not in (own := declared(owner)):
                raise UserError(f"config.{here} has no {step!r}{nearest(step, own)}; it has {', '.join(own)}")
            return _help_of_field(here, step, _marked(described(owner, f"{here}."), config), place)
        owner, here = found, f"{here}.{step}"
    return _text(_first_line(owner), _marked(described(owner, f"{here}."), config))


def _marked(lines: Iterable[tuple[str, str, str]], config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Fields with their values in a config behind their defaults, where it has them and they are others."""
    found = []
    for name, what, text in lines:
        value: Any = config
        for step in name.split("."):
            value = value.get(step, _ABSENT) if isinstance(value, Mapping) else _ABSENT
        known = value is _ABSENT or what == repr(value) or what.startswith(f"{value!r} (")
        found.append((name, what if known else f"{what}; in this config {value!r}", text))
    return found


def _help_of_field(here: str, field: str, lines: list[tuple[str, str, str]], place: str) -> str:
    """One of the fields of a section.

    Raises:
        UserError: it has none of this name, or this is no section with fields of its own.
    """
    known = {line[0].removeprefix(f"{here}."): line for line in lines}
    if place != f"{here}.{field}":
        raise UserError(f"config.{here}.{field} is no section{'' if field in known else nearest(field, known)}")
    if field not in known:
        raise UserError(f"config.{here} has no {field!r}{nearest(field, known)}; it has {', '.join(known)}")
    return _text("", [known[field]])


def _help_of_family(name: str, family: Family, inner: list[str], config: Mapping[str, Any]) -> str:
    """Every member with its own fields, or those of one member, or one field of one or of all; a config has values of one."""
    head = f"config.{name}.name chooses one of {', '.join(family.members)} (default {family.default})"
    chosen = config.get(name, {}).get("name", family.default) if config else None
    head += "" if chosen is None else f"; in this config {chosen}"
    first, more = (inner[0] if inner else ""), inner[1:]
    lines = {n: [(f"{name}.{f}", w, t) for f, w, t in _described_member(family, n)] for n in family.members}
    lines |= {n: _marked(lines[n], config) for n in family.members if n == chosen}
    if first == "name" and not more:
        return head
    if first in family.members:
        if not more:
            return f"{name}.name={first}: {_text(_first_line(family.members[first]), lines[first])}"
        return _help_of_field(name, more[0], lines[first], ".".join([name, *more]))
    if not first:
        return "\n\n".join(
            [head, *(f"{name}.name={n}: {_text(_first_line(family.members[n]), lines[n])}" for n in lines)]
        )
    found = [(f"{f}, of {n}", w, t) for n in lines for f, w, t in lines[n] if f == f"{name}.{first}"]
    if not found or more:
        known = [*family.members, "name", *family.every()]
        raise UserError(f"config.{name} has no {'.'.join(inner)!r}{nearest(first, known)}; it has {', '.join(known)}")
    return _text("", found)


def _described_member(family: Family, name: str) -> Iterator[tuple[str, str, str]]:
    for owner in (family.shared, family.members[name]):
        yield from described(owner, "") if owner is not None else ()


def _first_line(owner: type) -> str:
    return (owner.__doc__ or "").strip().splitlines()[0]


def _text(head: str, lines: Iterable[tuple[str, str, str]]) -> str:
    """Fields for a terminal, below a line on what they are of."""
    wrapped = [
        f"  --config.{name}\n      {what}\n{textwrap.indent(textwrap.fill(text, 112), '      ')}"
        for name, what, text in lines
    ]
    return "\n".join([*([head] if head else []), *wrapped])
