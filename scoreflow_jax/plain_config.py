"""Configs as plain nested dicts, which every run has as JSON in its workdir: read, changed, hashed and compared.

The fields are those of `sections.SECTIONS`. Configs of earlier versions are read in their older form and become today's here.
"""

import ast
import copy
import fnmatch
import hashlib
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from scoreflow_jax.errors import UserError, first_line, nearest
from scoreflow_jax.evaluation.settings import EvalSettings
from scoreflow_jax.published import is_published
from scoreflow_jax.sections import FAMILIES, SECTIONS, Family, every_field, field_at, flatten
from scoreflow_jax.settings.fields import (
    annotations,
    choices,
    declared,
    default_of,
    may_be_none,
    nested,
    plain_type,
)
from scoreflow_jax.settings.path import PATHS
from scoreflow_jax.settings.solve import of_preset, preset_values
from scoreflow_jax.user_paths import user_path

TRAINING_FIELDS = (
    "seed", "data", "path", "parameterization", "objective", "times", "model", "optimizer", "train.batch_size",
    "train.ema_decay", "train.coupling",
)  # fmt: skip
"""Fields that a resumed run must share with the run it goes on with, but for `FREE`."""

PLACES = (
    "data.path", "data.pairs", "data.parts.*.path", "data.base.path", "data.base.*.path", "objective.teacher", "*.lpips_backbone",
    "*.lpips_heads", "eval.cache", "eval.reference", "eval.inception_weights", "translate.images", "difference.other",
)  # fmt: skip
"""Fields that name a file or a folder of a machine. Published configs are written without them and read without them, since a
stranger's are of no use and no business of anybody's."""

FREE = ("data.strict", "objective.teacher_sha256")
"""Fields that may always differ, as `PLACES` may: where the data are is not what they are (commands/workdir.py looks at that),
nor where a teacher is (commands/teacher.py)."""

MODEL_FIELDS = ("data.shape", "data.num_classes", "data.dequantize", "path", "parameterization", "model")
"""Fields that sampling and evaluation must share with the run whose checkpoint they read, but for `TRAINING_ONLY`."""

DATA_TRAINING_ONLY = ("data.flip", "data.sampling", "data.on_pairs")
"""Fields of the data that do not change which examples there are, which of them are held out, or their pixels: what uses the run
must share all others with it, but for `FREE`."""

TRAINING_ONLY = ("model.dropout", "model.dtype", "model.remat_resolutions")
"""Fields of the network that change nothing but its training."""

FORMER_ENDS = {"variance_preserving": 0.999}
"""Paths whose default t_max is another one now, and what it was. A config of now always states theirs: one that is read without
is of a run that was trained to the former end, and keeps it."""

ENDS = {name: default_of(declared(PATHS[name])["t_max"]) for name in FORMER_ENDS}
"""Their ends of now."""

_TRUTH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


@runtime_checkable
class Config(Protocol):
    """A config as it comes from a file: ml_collections' ConfigDict, or a plain nested dict."""

    def __getitem__(self, name: str, /) -> Any:
        """A section or field."""
        ...

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        ...


def is_json(file: str) -> bool:
    """Whether a config is JSON, by its name."""
    return file.lower().endswith(".json")


def read_json(file: str) -> dict[str, Any]:
    """Reads a config, such as runs/digits/config.json, with the path's end as it was where it does not say (`with_end`).

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
    return with_end(to_plain(config))


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
    """The config that a run was trained with, from its workdir, in today's form and with its path's end as it was.

    That of a published model without `PLACES`, whatever stands there.

    Raises:
        UserError: there is none, or it is not JSON.
    """
    path = workdir / "config.json"
    try:
        config = json.loads(path.read_text())
        if not isinstance(config, dict):
            raise ValueError("not an object")
    except OSError:
        raise UserError(f"{workdir} holds no run (no {path.name}): train first, or give the workdir of a run") from None
    except ValueError as error:  # not JSON, or not text at all
        raise UserError(f"{path} is damaged ({first_line(error)}): restore it, or train in another workdir") from error
    plain = with_end(to_plain(config))
    return without_places(plain) if is_published(workdir) else plain


def without_places(config: Mapping[str, Any], outer: str = "") -> dict[str, Any]:
    """The config with None where `PLACES` stand in it."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        place = f"{outer}{name}"
        if isinstance(value, Mapping):
            found[name] = without_places(value, f"{place}.")
        else:
            found[name] = None if _is_place(place) else copy.deepcopy(value)
    return found


def _is_place(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, each) for each in PLACES)


def to_plain(config: Config) -> dict[str, Any]:
    """The config as nested dicts of plain values in today's form, lists as tuples: JSON has no tuples, and hashes must agree.

    NumPy's numbers become Python's. Fields of a family's members that are None are left out: they say nothing.
    """
    to_dict = getattr(config, "to_dict", None)  # a ConfigDict's, whose package may be missing
    plain = _tidy(copy.deepcopy({name: config[name] for name in config}) if to_dict is None else to_dict())
    for name, family in FAMILIES.items():
        section = plain.get(name)
        if isinstance(section, dict):
            kept = {} if family.shared is None else {*declared(family.shared)}
            if not family.optional and isinstance(member := section.get("name"), str) and member in family.members:
                kept = {*kept, *family.fields(member)}
            plain[name] = {k: v for k, v in section.items() if v is not None or k in kept}
    return upgraded(plain)


def _tidy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _tidy(v) for k, v in value.items()}
    if isinstance(value, np.generic):  # as a Python config may compute it
        return value.item()
    return tuple(_tidy(v) for v in value) if isinstance(value, (list, tuple)) else value


def with_end(config: Mapping[str, Any], ends: Mapping[str, float] = FORMER_ENDS) -> dict[str, Any]:
    """The config with `path.t_max` stated, where it is not and its path is one of those whose default end has changed.

    Args:
        config: plain.
        ends: t_max by the path's name.
    """
    path = config.get("path")
    if not isinstance(path, dict) or path.get("t_max") is not None or str(path.get("name")) not in ends:
        return dict(config)
    return {**config, "path": {**path, "t_max": ends[path["name"]]}}


# Changes of the command line.


def fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names to values: those that the config states, and the defaults of all others that it may have."""
    return {**every_field(), **flatten(config)}


def known_names(config: Mapping[str, Any]) -> list[str]:
    """The dotted names that a change may have, the older ones too."""
    return [*fields(config), *(f"eval.{name}" for name in FORMER)]


def changed(config: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """The config with other values in some fields.

    Args:
        config: plain, in today's form.
        values: dotted names among `known_names`, and texts. Each is read as its field's type: tuples as Python writes them, and
            where the type is open whatever Python writes, or else text. A family's name that changes leaves the fields of the
            one before to the new one's defaults.

    Raises:
        UserError: a value of another type.
    """
    new = copy.deepcopy(dict(config))
    today = {".".join(_place(name)): (name, text) for name, text in values.items()}
    for section, family in FAMILIES.items():
        before = new.get(section, {}).get("name", family.default)
        if section in new and today.get(f"{section}.name", ("", before))[1] != before:
            shared = declared(family.shared) if family.shared is not None else {}
            new[section] = {k: v for k, v in new[section].items() if k == "name" or k in shared}
    present = fields(new)
    for name, (given, text) in sorted(today.items(), key=lambda item: not item[0].endswith(".name")):
        *sections, last = name.split(".")
        place = new
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = _read(given, name, text, new, present.get(name))
    if isinstance(solver := new.get("solver"), dict):
        new["solver"] = _with_preset(solver, {name.removeprefix("solver.") for name in today})
    return new


def _with_preset(solver: dict[str, Any], given: set[str]) -> dict[str, Any]:
    """`config.solver` with the fields of its preset, but for those that were given.

    A preset that was given takes the place of whatever a run has stored; one that the run has stored, of defaults alone.
    """
    of = of_preset(solver.get("preset"))
    if not given & {"preset", *of}:
        return solver
    stated = {n: v for n, v in solver.items() if "preset" not in given or n in given or n not in of}
    return {**solver, **preset_values(stated, given)}


def _place(name: str) -> tuple[str, ...]:
    """Where a field of this dotted name stands today."""
    section, _, flat = name.partition(".")
    return ("eval", *FORMER[flat]) if section == "eval" and flat in FORMER else (name,)


def _read(given: str, name: str, text: str, config: Mapping[str, Any], present: Any) -> Any:
    """A value of the field's type; of one that no section declares, as in data.base.source, of the type of the present value."""
    found = field_at(name, config)
    hint = annotations(found[0])[name.rpartition(".")[2]] if found is not None else None
    kind = plain_type(hint) if hint is not None else type(present)
    if text == "None" and (present is None or may_be_none(hint)):
        return None
    if given == "eval.likelihood" and text.lower() in _TRUTH:
        return SWITCHED[_TRUTH[text.lower()]]
    if kind is str:
        return text
    reader, expected = _READERS.get(kind, (_literal, "a value"))
    try:
        return reader(text)
    except (KeyError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        if (listed := choices(hint)) and kind is not tuple:
            expected = f"one of {', '.join(map(str, listed))}"
        instead = f"; expected one as in its place, {present!r}" if present is not None else " or None"
        raise UserError(f"--config.{given}={text} is not {expected}{instead}") from error


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _tuple(text: str) -> tuple[Any, ...]:
    value = ast.literal_eval(text)
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


_READERS: dict[Any, tuple[Any, str]] = {
    bool: (lambda text: _TRUTH[text.lower()], "True or False"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    tuple: (_tuple, "a tuple such as (1, 2)"),
}
"""How a text becomes a value of a type, and what to call that."""


def merged(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the fields of `changes`, sections within sections too; a section that names its member is replaced.

    Raises:
        UserError: a section that no config has.
    """
    new = copy.deepcopy(dict(config))
    for section, values in changes.items():
        if section not in new or not isinstance(values, Mapping):
            what = "is no section of a config" if section not in new else "is to be a section of fields"
            raise UserError(f"config.study: what cells change has {section!r}, which {what}{nearest(section, new)}")
        replaced = section in FAMILIES and section != "model" and "name" in values
        new[section] = dict(values) if replaced else _merged(new[section], values)
    return new


def _merged(section: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    inner = {k: _merged(section[k], v) for k, v in values.items() if _is_part(section, k) and isinstance(v, Mapping)}
    return {**section, **values, **inner}


def _is_part(section: Mapping[str, Any], name: str) -> bool:
    """Whether a field is a section of an evaluation's part, and no value that is a dict."""
    return isinstance(section.get(name), Mapping) and nested(EvalSettings, name) is not None


# Older forms: until 2026-11 the fields of an evaluation's parts stood flat in `config.eval`.


def _former_names() -> dict[str, tuple[str, str]]:
    found = {}
    for part in declared(EvalSettings):
        owner = nested(EvalSettings, part)
        for name, member in declared(owner).items() if owner is not None else ():
            if (was := member.metadata["was"]) is not None:
                found[was] = (part, name)
    return found


FORMER = _former_names()
"""Names that fields of `config.eval` had, and the part and field that they are now."""

SWITCHED = {True: "ode", False: "none"}
"""What `eval.likelihood` said before it had a name."""


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config, or the changes of a study's cell, of any version in today's form."""
    plain = dict(config)
    if isinstance(plain.get("eval"), Mapping):
        plain["eval"] = _upgraded_eval(plain["eval"])
    study = plain.get("study")
    if isinstance(study, Mapping) and isinstance(study.get("cells"), Mapping):
        plain["study"] = {**study, "cells": {name: _upgraded_cell(cell) for name, cell in study["cells"].items()}}
    return plain


def _upgraded_cell(cell: Any) -> Any:
    known = isinstance(cell, Mapping) and isinstance(cell.get("changes"), Mapping)
    return {**cell, "changes": upgraded(cell["changes"])} if known else cell


def _upgraded_eval(section: Mapping[str, Any]) -> dict[str, Any]:
    """Flat values in their parts' sections; one that stands beside its new place was set later, and wins."""
    flat = {k: v for k, v in section.items() if k in FORMER and not (k == FORMER[k][0] and isinstance(v, Mapping))}
    found = {k: dict(v) if isinstance(v, Mapping) else v for k, v in section.items() if k not in flat}
    for name, value in flat.items():
        part, inner = FORMER[name]
        if name == "likelihood" and isinstance(value, bool):
            value = SWITCHED[value]
        found[part] = {**found.get(part, {}), inner: value}
    return found


def config_hash(plain: Mapping[str, Any]) -> str:
    """The first 12 hexadecimal digits of the sha256 of the canonical JSON of a config, or of several by name.

    Canonical is the form that configs had when hashes were first kept: an evaluation's fields flat, and without the fields that
    came later where these have their defaults. So neither new fields nor new sections change what a run or a study is.
    """
    text = json.dumps(_canonical(plain), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _canonical(plain: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in plain.items():
        owner = nested(EvalSettings, key) if name == "eval" and isinstance(value, Mapping) else None
        if owner is not None:
            found.update(_flat(key, declared(owner), value))
        elif not _came_later(_member(name, key), value):
            inner = _canonical(value, key) if isinstance(value, Mapping) else value
            if inner != {} or value == {}:  # a section of which every field came later did so itself
                found[key] = inner
    return found


def _flat(part: str, members: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A part's fields by the names that they had; a part that came later is there only where it is on."""
    if members["on"].metadata["was"] is None and not members["on"].metadata["added"] and not values.get("on", False):
        return {}
    return {
        (members[k].metadata["was"] or f"{part}.{k}" if k in members else k): v
        for k, v in values.items()
        if not _came_later(members.get(k), v)
    }


def _member(section: str, name: str) -> Any:
    """The declared field of a section."""
    owner = SECTIONS.get(section)
    if isinstance(owner, Family):
        return owner.every().get(name, (None, None))[1]
    return None if owner is None else declared(owner).get(name)


def _came_later(member: Any, value: Any) -> bool:
    return member is not None and member.metadata.get("added", False) and value == default_of(member)


# Comparisons.


def differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], names: tuple[str, ...], free: tuple[str, ...] = ()
) -> list[str]:
    """Names and both values of the given fields, or of all below a section, that differ between two plain configs.

    Args:
        ours, theirs: the configs.
        names: of fields and sections.
        free: names among them that may differ, besides `FREE`.
    """
    mine, other = _with_defaults(ours), _with_defaults(theirs)
    covered = lambda name: any(name == f or name.startswith(f + ".") for f in names)  # noqa: E731
    return [
        f"{name} is {mine.get(name)!r}, was {other.get(name)!r}"
        for name in sorted(mine.keys() | other.keys())
        if covered(name) and not _is_free(name, free) and mine.get(name) != other.get(name)
    ]


def say_edited(workdir: pathlib.Path, step: int, changed: list[str]) -> None:
    """A line where the config at hand is not the one of a checkpoint: config.json is a file that may be edited, or be damaged.

    Args:
        workdir: of the run.
        step: of the checkpoint.
        changed: what differs, with both values.
    """
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        print(
            f"warning: the config differs from the one that the checkpoint of step {step} in {workdir} was trained with "
            f"({'; '.join(changed[:3])}{more}): the config's value is taken",
            file=sys.stderr,
        )


def _is_free(name: str, free: tuple[str, ...]) -> bool:
    return name in (*FREE, *free) or _is_place(name)


def _with_defaults(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names to values, those that the config does not state at their defaults."""
    flat = flatten(plain)
    for name, section in SECTIONS.items():
        if isinstance(section, Family):
            member = str(flat.setdefault(f"{name}.name", section.default))
            known = section.fields(member) if member in section.members else {}
            own = {field: default_of(found) for field, (_, found) in known.items()}
        else:
            own = {field: default_of(found) for field, found in declared(section).items() if not nested(section, field)}
        for field, default in own.items():
            if not isinstance(default, Mapping):
                flat.setdefault(f"{name}.{field}", default)
    flat["data.on_pairs"] = flat.get("data.pairs") is not None  # where pairs are is free, whether there are any is not
    return flat
