"""The smoke variant of a config as an experiment, and the report of a run."""

import json

from scoreflow_jax.command_line import load_config
from scoreflow_jax.experiment import build, resolve
from scoreflow_jax.plain_config import to_plain
from tests.changes import set_fields
from tests.conftest import ROOT

SHRUNK = {"channel_multipliers": (1,), "num_blocks": 0}
"""One resolution, and of the blocks those in the middle and one on the way up: a third of the smoke variant to compile."""


def experiment_of(name, path=None, **changes):
    """The smoke variant of a config, with changes like train__num_steps=2; the most used with a smaller network, `SHRUNK`."""
    config = to_plain(load_config(f"{ROOT / 'configs' / name}:smoke"))
    if name in ("digits.py", "image_folder.py"):
        config["model"].update(SHRUNK)
    if path is not None:
        config["data"]["path"] = str(path)
    return build(resolve(set_fields(config, changes)))


def report(path):
    return json.loads((path / "report.json").read_text())
