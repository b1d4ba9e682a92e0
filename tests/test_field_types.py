"""Values of the wrong type in a config: one sentence that names the field, never a traceback, never taken as something else."""

import copy
import json
import math

import numpy as np
import pytest

from scoreflow_jax.command_line import load_config, parse
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import build, resolve
from scoreflow_jax.plain_config import to_plain
from scoreflow_jax.sections import flatten
from tests.conftest import ROOT
from tests.test_points import write_table


def config_of(name):
    """As JSON has it."""
    return json.loads(json.dumps(to_plain(load_config(f"{ROOT / 'configs' / name}"))))


def changed(config, name, value):
    config = copy.deepcopy(config)
    *sections, field = name.split(".")
    section = config
    for part in sections:
        section = section[part]
    section[field] = value
    return config


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("train.batch_size", "8", "config.train.batch_size is '8', expected a whole number"),
        ("train.batch_size", None, "config.train.batch_size is None, expected a whole number"),
        ("train.batch_size", 10.0, "config.train.batch_size is 10.0, expected a whole number"),
        ("train.batch_size", True, "config.train.batch_size is True, expected a whole number"),
        ("data.flip", "false", "config.data.flip is 'false', expected True or False"),
        ("data.flip", 0, "config.data.flip is 0, expected True or False"),
        ("train.num_steps", "8", "config.train.num_steps is '8', expected a whole number"),
        ("optimizer.learning_rate", "1e-3", "config.optimizer.learning_rate is '1e-3', expected a number"),
        ("optimizer.clip_norm", math.nan, "config.optimizer.clip_norm is nan, expected a number"),
        (
            "model.channel_multipliers",
            [1, "2"],
            r"config.*multipliers is \(1, '2'\), expected a tuple of whole numbers",
        ),
        ("model.channel_multipliers", 2, "config.model.channel_multipliers is 2, expected a tuple of whole numbers"),
        ("solver.num_steps", 2.5, "config.solver.num_steps is 2.5, expected a whole number or None"),
        ("objective.weight_exponent", "2", "config.objective.weight_exponent is '2', expected a number"),
        ("seed", "0", "config.seed is '0', expected a whole number"),
        ("name", 3, "config.name is 3, expected text"),
        ("model", None, "config.model is None, expected a section"),
    ],
)
def test_the_field_the_value_and_the_type_are_named(name, value, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        build(changed(config_of("digits.py:smoke"), name, value))


def test_whole_numbers_are_numbers():
    assert build(changed(config_of("digits.py:smoke"), "solver.rtol", 1)).solver.rtol == 1


@pytest.mark.parametrize("name", ["digits.py:smoke", "table.py:smoke", "afhq.py"])
def test_whatever_stands_in_a_field_is_taken_or_refused_in_a_line(name, tmp_path):
    """Every field of the digits' config, and of the others those that have another value or are not there."""
    config = config_of(name)
    if name.startswith("table"):
        config["data"]["path"] = str(write_table(tmp_path / "points.csv", count=100))
    fields = flatten(config)
    if not name.startswith("digits"):
        known = flatten(config_of("digits.py:smoke"))
        fields = {field: value for field, value in fields.items() if known.get(field, known) != value}
    refused = 0
    for field in fields:
        for value in ("8", None, 10.5, {}, [None], -1):
            try:
                build(resolve(changed(config, field, value)))
            except UserError as error:
                assert "\n" not in str(error)  # noqa: PT017
                refused += 1
    assert refused > 3 * len(fields)


@pytest.mark.parametrize(
    ("given", "shape"), [("64", (64, 64, 3)), ("(64,)", (64, 64, 3)), ("(64,48)", (64, 48, 3)), ("(8,8,1)", (8, 8, 1))]
)
@pytest.mark.parametrize("kind", ["Python", "JSON"])
def test_a_shape_is_whole_from_a_side(given, shape, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    file = "configs/afhq.py"
    if kind == "JSON":
        (tmp_path / "config.json").write_text(json.dumps(config_of("afhq.py")))
        file = str(tmp_path / "config.json")
    _, config, _, _ = parse(["main.py", "--mode=train", f"--config={file}", f"--config.data.shape={given}"])
    assert resolve(config, run=None, trained={"data": {"num_classes": 3}})["data"]["shape"] == shape


def test_numbers_of_numpy_are_numbers():
    """As a Python config computes them."""
    config = changed(config_of("digits.py:smoke"), "solver.rtol", np.float64(0.25))
    built = build(to_plain(changed(config, "model.channel_multipliers", [np.int64(1), np.int32(2)])))
    assert (built.solver.rtol, built.config["model"]["channel_multipliers"]) == (0.25, (1, 2))


def test_a_part_that_is_no_section_is_refused():
    with pytest.raises(UserError, match=r"config.data.parts.a is 1, expected a section of fields"):
        build(changed(config_of("digits.py:smoke"), "data.parts", {"a": 1}))
