"""The contract of an evaluation's parts: what each states, and that one file and one line in the table add a part."""

import json
import subprocess
import sys

import pytest

from scoreflow_jax.evaluation import base
from scoreflow_jax.evaluation.parts import PARTS
from scoreflow_jax.settings.fields import build_section, declared
from tests.conftest import ROOT

PART = '''
"""How dark generated images are."""

import dataclasses

from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.base import Part
from scoreflow_jax.evaluation.markdown import table
from scoreflow_jax.settings.fields import field


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blackness(Part):
    """The share of dark pixels."""

    images: int = field(64, "generated", least=1)
    below: float = field(0.0, "what is called dark, in [-1, 1]", least=-1, most=1)

    smoke = {"images": 3}
    matters = ("images",)

    def check(self, experiment):
        if experiment.spec.is_points:
            raise UserError("config.eval.blackness is about images: set its field `on` to False")

    def measure(self, model, data, out):
        x = model.generate(0, num_images=self.images, labels=[0] * self.images)
        return {"images": self.images, "share": float((x < self.below).mean())}

    @staticmethod
    def page(figures, report):
        return "## Blackness\\n\\n" + table(["images", "dark"], [[str(figures["images"]), f"{figures['share']:.1%}"]])
'''

USE = """
import json, sys
sys.path[:0] = [sys.argv[1], "."]
from scoreflow_jax.evaluation.parts import PARTS
from blackness import Blackness
PARTS["blackness"] = Blackness  # the line in the table
from scoreflow_jax.command_line import parse
from scoreflow_jax.sections import help_of
config = parse(["main.py", "--mode=eval", "--config=configs/digits.py:smoke", "--config.eval.blackness.below=0.5",
                "--config.eval.blackness.on=True"])[1]
known = {"help": help_of("eval.blackness"), "config": config["eval"]["blackness"], "jax": "jax" in sys.modules}
import numpy as np
from scoreflow_jax.commands.evaluate import chosen_parts
from scoreflow_jax.evaluation.report import MATTERS, page
from scoreflow_jax.experiment import build
class Model:
    def generate(self, key, num_images, labels):
        return np.linspace(-1, 1, 5)[:, None] * np.ones(num_images)
part = chosen_parts(build(config))["blackness"]
from scoreflow_jax.plain_config import config_hash, to_plain
off = {**config, "eval": {**config["eval"], "blackness": {**config["eval"]["blackness"], "on": False}}}
before = {**config, "eval": {k: v for k, v in config["eval"].items() if k != "blackness"}}
known["same"] = config_hash(off) == config_hash(before) != config_hash(config)
report = {"name": "digits", "step": 4, "blackness": part.measure(Model(), None, None)}
print(json.dumps({**known, "page": page(report), "matters": "blackness.images" in MATTERS}))
"""


def test_one_file_and_a_line_in_the_table_add_a_part(tmp_path):
    """Fields, --help, the smoke variant, the command line, the report's page and its manifest follow."""
    (tmp_path / "blackness.py").write_text(PART)
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (
        "--config.eval.blackness.below\n      0.0 (at least -1 and at most 1)\n      what is called dark"
        in told["help"]
    )
    assert told["config"] == {"on": True, "images": 3, "below": 0.5}
    assert not told["jax"]
    assert "## Blackness\n\n| images | dark |\n| --- | --- |\n| 3 | 60.0% |" in told["page"]
    assert "| blackness.images | 3 |" in told["page"]
    assert told["matters"]
    assert told["same"]  # a new part changes what no run or study is


@pytest.mark.parametrize("name", PARTS)
def test_every_part_states_itself(name):
    part = PARTS[name]
    assert part.__doc__
    assert part.measure is not base.Part.measure
    assert part.page is not base.Part.page
    smaller = build_section(part, f"eval.{name}", part.smoke)
    assert smaller.on == part().on
    flat = {field.metadata["was"] for field in declared(part).values() if not field.metadata["added"]}
    came_later = declared(part)["on"].metadata["was"] is None  # and is in no hash while it is off
    assert came_later or None not in flat  # names of before, which hashes are of


def test_configs_are_known_without_jax():
    """So --help and configs stay instant: with all that a config and its fields import."""
    code = "import sys, configs.digits; configs.digits.get_config(); print({'jax', 'flax', 'optax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"
