"""What the version of 2026-11 wrote, before an evaluation's parts had sections of their own, goes on.

tests/older/2026_11.zip was made by that version with a network of 4 channels: `run` of configs/digits.py:smoke with two steps and
a round of reflow, `pack` of its data, and `study` of two rows of configs/ablation_weight.py by study.json. hashes.json has what
it called them.
"""

import json
import zipfile

import pytest
from ml_collections import ConfigDict

from configs import common
from scoreflow_jax.command_line import load_config, parse
from scoreflow_jax.commands import evaluate, reflow, study, train
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.experiment import build
from scoreflow_jax.plain_config import TRAINING_FIELDS, config_hash, differences, read_config, read_json, to_plain
from tests.commands.runs import report
from tests.conftest import ROOT


@pytest.fixture
def older(tmp_path, monkeypatch):
    with zipfile.ZipFile(ROOT / "tests" / "older" / "2026_11.zip") as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)  # as it was then: the stored folders are named from here
    return tmp_path


def parsed(*arguments):
    return parse(["main.py", *arguments])[1]


def test_a_config_is_read_as_its_new_places_and_is_the_same(older):
    config = read_json("run/config.json")
    assert config["eval"]["straightness"] == {"on": True, "images": 30, "times": 3, "steps": (1, 2)}
    assert config["eval"]["likelihood"]["by"] == "both"
    assert config["eval"]["sweep"]["methods"] == ("heun",)
    assert config["eval"]["generation"]["keep_images"] is False
    built, hashes = build(config), json.loads((older / "hashes.json").read_text())
    assert built.config_hash == config_hash(config) == hashes["run"]
    assert built.eval.straightness.wanted
    assert (built.eval.straightness.images, built.eval.reversibility.images) == (30, 10)
    assert config_hash(read_json("study.json")) == hashes["study"]
    assert config_hash(to_plain(json.loads(json.dumps(config)))) == hashes["run"]  # as today's version writes it


def test_training_goes_on_and_today_evaluates(older, capsys):
    arguments = ["--mode=train", "--config=run/config.json", "--config.train.num_steps=4", "--config.train.log_every=1"]
    experiment = workdirs.build_for("train", parsed(*arguments), older / "run")
    train.run_command(experiment, older / "run")
    printed = capsys.readouterr()
    assert "resuming from step 2" in printed.out
    assert "differs from the one" not in printed.err
    assert [json.loads(line)["step"] for line in (older / "run" / "metrics.jsonl").read_text().splitlines()] == [
        2,
        3,
        4,
    ]
    today = read_config(older / "run")
    assert differences(today, read_json("study.json"), ("eval.split",)) == []
    only = ["--config.eval.generation=False", "--config.eval.reversibility=False", "--config.eval.translation=False"]
    only += ["--config.eval.likelihood=none", "--config.eval.truncation=False", "--config.eval.audit=False"]
    config = parsed("--mode=eval", "--config=run/config.json", *only)
    evaluate.run_command(workdirs.build_for("eval", config, older / "run"), older / "run")
    assert report(older / "run" / "eval" / "4")["straightness"]["images"] == 30


def test_packs_and_pairs_are_data(older, monkeypatch):
    config = read_json("run/config.json")
    config["data"]["path"] = "pack"
    assert len(build(config).split("train")) == 1433
    stage = build(read_config(older / "run" / "reflow" / "2"))
    assert len(stage.training_source()) == 16
    # The round is there already: nothing is drawn or trained again.
    monkeypatch.setattr(train, "run_command", None)
    settings = ("--config.reflow.num_pairs=16", "--config.reflow.shard_size=8", "--config.reflow.num_steps=2")
    again = build(parsed("--mode=reflow", "--config=run/config.json", *settings))
    assert reflow.make_stages(again, older / "run").keys() == {"1", "2"}


def test_a_study_measures_nothing_again(older, monkeypatch, capsys):
    before = (older / "study" / "study.md").read_text()
    for module in (train, evaluate):
        monkeypatch.setattr(module, "run_command", None)
    study.run_command(build(read_json("study.json")), older / "study")
    after = (older / "study" / "study.md").read_text()
    assert after.splitlines()[4:] == before.splitlines()[4:]
    assert "ScoreFlow" in capsys.readouterr().out


def test_flat_names_and_switches_of_before_on_the_command_line(older):
    """Of a config.json that lacks whole sections too."""
    config = json.loads((older / "run" / "config.json").read_text())
    del config["reflow"], config["difference"], config["parameterization"]
    (older / "config.json").write_text(json.dumps(config))
    changes = (
        "reflow.rounds=3",
        "difference.sigma_end=0.5",
        "parameterization.predicts=data",
        "eval.straightness=False",
    )
    changes += ("eval.straightness_images=7", "eval.num_images=50", "eval.likelihood=False", "eval.outlier_images=3")
    got = parsed("--mode=reflow", "--config=config.json", *(f"--config.{change}" for change in changes))
    assert got["reflow"] == {"rounds": 3}
    assert got["difference"] == {"sigma_end": 0.5}
    assert got["parameterization"] == {"predicts": "data"}
    e = got["eval"]
    assert (e["straightness"]["on"], e["straightness"]["images"], e["generation"]["images"]) == (False, 7, 50)
    assert (e["likelihood"]["by"], e["outliers"]["images"]) == ("none", 3)
    assert not {"straightness_images", "num_images", "outlier_images"} & e.keys()


def test_python_configs_of_before_set_what_they_meant():
    config = common.base("mine")
    config.eval.update(straightness=True, straightness_steps=(1, 2), likelihood="ode", num_images=10, split="test")
    config.eval.sweep_images = 20
    config.eval.translation = True
    config.eval.likelihood_probes = 4
    assert config.eval.sweep_images == config.eval.sweep.images == 20
    e = build(config).eval
    assert (e.straightness.on, e.straightness.steps, e.likelihood.by, e.likelihood.probes) == (True, (1, 2), "ode", 4)
    assert (e.generation.images, e.sweep.images, e.translation.on, e.split) == (10, 20, True, "test")
    config.eval.likelihood = False
    assert build(config).eval.likelihood.by == "none"
    config.eval.outlier_data = {"source": "digits"}  # a value that is itself a section of fields
    assert build(config).eval.outliers.data == {"source": "digits"}


def test_sections_of_parts_are_merged_into_a_python_config():
    config = common.base("mine")
    config.eval.generation.keep_images = False
    for more in ({"generation": {"images": 3}}, ConfigDict({"generation": {"first_images": 2}})):
        config.eval.update(more)
    config.update(ConfigDict({"eval": {"generation": {"images": 4}}}))
    config.eval.sweep = {"on": True}
    e = build(config).eval
    assert (e.generation.images, e.generation.first_images, e.generation.keep_images) == (4, 2, False)
    assert (e.sweep.on, e.sweep.images) == (True, 1000)
    assert build(ConfigDict(config)).config_hash == build(config).config_hash


def test_the_photograph_run_is_still_its_config():
    """The config that its weights stand beside, a flow map's, is that of the repository."""
    stored = read_json(str(ROOT / "scoreflow_jax" / "pretrained" / "cifar10-small" / "config.json"))
    now = to_plain(load_config(str(ROOT / "configs" / "cifar10_small.py:flow_map")))
    assert differences(now, stored, TRAINING_FIELDS) == []
    assert build(stored).network == build(now).network
