"""reflow and study on toy points and tiny digits; every system end to end; samplers in the commands."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import scoreflow_jax
from scoreflow_jax import sampling, sums
from scoreflow_jax.command_line import load_config
from scoreflow_jax.commands import evaluate, reflow, sample, study, train, translate
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.data import Pairs
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import build, resolve
from scoreflow_jax.model import Model
from scoreflow_jax.plain_config import to_plain
from scoreflow_jax.sampling import Sampler
from tests import oracles
from tests.commands.runs import report
from tests.conftest import ROOT

SYSTEMS = ("rectified_flow", "vp", "sub_vp", "ve", "ddpm", "interpolant")


def toy(system, name="gaussians", changes=None, **more):
    """A system on eight Gaussians with a small network and few steps."""
    config = to_plain(load_config(f"{ROOT / 'configs' / system}.py:{name}"))
    config["model"].update(width=64, num_blocks=2)
    config["train"].update(num_steps=400, checkpoint_every=400, batch_size=256, tensorboard=False, ema_decay=0.98)
    config["eval"].update(num_images=500, batch_size=500, num_reconstructions=50, reconstruction_tolerances=(1e-3,))
    config["eval"].update(
        likelihood_images=200, likelihood="ode", residual=True, straightness=True, straightness_images=100
    )
    config["sample"].update(num_images=500, batch_size=500)
    config["solver"].update(rtol=1e-4, atol=1e-4)
    config["reflow"].update(num_pairs=2000, shard_size=600, batch_size=600, num_steps=300)
    if config["sampler"]["name"] != "ode" or system == "interpolant":
        config["sampler"]["num_steps"] = 200
    for section, fields in (changes or {}).items():
        config[section].update(fields)
    config.update(more)
    return build(resolve(config))


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_learns_eight_gaussians(system, tmp_path):
    """By its own sampler and by the ODE nearly every point is near its own mean, and the density is near the known one."""
    experiment = toy(system)
    train.run_command(experiment, tmp_path)
    model = scoreflow_jax.load(tmp_path, batch_size=500)
    held_out = experiment.split("test").read(np.arange(100))
    nats = model.log_likelihood(held_out["image"], held_out["label"], probe="exact") - 2 * np.log(2.85)
    # The class is known, so it is the density of its own Gaussian.
    assert nats.mean() == pytest.approx(-1.0 - np.log(2.0 * np.pi * 0.3**2), abs=0.45)
    labels = np.arange(500) % 8
    angles = labels * np.pi / 4
    for sampler in {experiment.sampler, Sampler()}:
        solved = model.with_sampler(sampler).solve_samples(jax.random.key(0), 500, labels)
        distance = np.linalg.norm(solved.y * 2.85 - 4 * np.stack([np.cos(angles), np.sin(angles)], axis=1), axis=1)
        assert np.mean(distance < 1.2) > 0.9, sampler
        if sampler.name != "ode":
            assert solved.stats.summary()["nfe_mean"] == sampler.network_calls(experiment.path)


def test_commands_sample_and_measure_by_the_samplers(tmp_path):
    experiment = toy(
        "vp",
        changes={
            "train": {"num_steps": 60, "checkpoint_every": 60},
            "eval": {"reversibility": False, "straightness": False, "likelihood": "none"},
            "sampler": {"num_steps": 20},
        },
    )
    train.run_command(experiment, tmp_path)
    sample.run_command(experiment, tmp_path)
    told = report(tmp_path / "sample")
    assert told["sampler"]["name"] == "euler_maruyama"
    assert told["cost"]["nfe_mean"] == 21
    assert Image.open(tmp_path / "sample" / "grid.png").size[0] > 300
    evaluate.run_command(experiment, tmp_path)
    measured = report(tmp_path / "eval" / "60")
    assert measured["generation"]["by_seed"]["1"]["nfe"] == 21
    assert len(measured["residual"]["mean_square"]) == 21
    page = (tmp_path / "eval" / "60" / "report.md").read_text()
    assert "## Held-out error along t" in page


def test_an_evaluation_says_first_what_cannot_be_measured(tmp_path, capsys):
    """Eight Gaussians to moons: the source is no Gaussian, so there is no density; all else is measured."""
    between = {
        "data": {"base": {"name": "gaussians"}, "num_classes": 2},
        "model": {"conditional": False},
        "train": {"num_steps": 30, "checkpoint_every": 30},
        "eval": {
            "translation": False,
            "straightness": False,
            "residual": False,
            "classifier": False,
            "num_images": 200,
        },
    }
    experiment = toy("rectified_flow", "moons", changes=between)
    train.run_command(experiment, tmp_path)
    evaluate.run_command(experiment, tmp_path)
    told = capsys.readouterr().err
    assert "likelihood is left out: the points at t = 0 are data (config.data.base)" in told
    assert {"generation", "reversibility"} <= report(tmp_path / "eval" / "30").keys()
    only = {**between, "eval": {**between["eval"], "generation": False, "reversibility": False}}
    with pytest.raises(UserError, match="nothing that is asked for can be measured of this model"):
        evaluate.run_command(toy("rectified_flow", "moons", changes=only), tmp_path)


def table_of(path, seed, shift, scale):
    """Two columns of Gaussian points, each table in units of its own."""
    points = np.random.default_rng(seed).normal(size=(600, 2)) * scale + shift
    path.write_text("u,v\n" + "".join(f"{u!r},{v!r}\n" for u, v in points.tolist()))
    return points


def test_from_table_to_table_both_ways_each_in_its_own_units(tmp_path, capsys):
    first = table_of(tmp_path / "from.csv", 0, (1e5, 0.01), (10.0, 0.001))
    table_of(tmp_path / "to.csv", 1, (-3.0, 7e3), (0.5, 200.0))
    fields = {"source": "table", "name": "table", "path": str(tmp_path / "to.csv"), "shape": (), "num_classes": 0}
    changes = {
        "data": {**fields, "base": {"path": str(tmp_path / "from.csv")}},
        "model": {"conditional": False},
        "train": {"num_steps": 150, "checkpoint_every": 150},
        "translate": {"num_images": 30, "batch_size": 30},
        "eval": {"translation": False},
    }
    experiment = toy("rectified_flow", "moons", changes=changes)
    train.run_command(experiment, tmp_path / "run")
    translate.run_command(experiment, tmp_path / "run")
    assert "there and back within" in (told := capsys.readouterr().out)
    assert "standard deviations" in told
    with np.load(tmp_path / "run" / "translate" / "translations.npz") as stored:
        found, labels = dict(stored), stored["source_labels"]
    forth, back = labels == 0, labels == 1
    rows = {tuple(np.round(row, 4)) for row in first}
    assert {tuple(np.round(row, 4)) for row in found["source_points"][forth]} <= rows
    for chosen, mean, deviation in ((forth, (-3.0, 7e3), (0.5, 200.0)), (back, (1e5, 0.01), (10.0, 0.001))):
        moved = (found["translated_points"][chosen] - mean) / deviation
        assert np.abs(moved.mean(axis=0)).max() < 0.7
        assert 0.5 < moved.std() < 1.5
    assert Image.open(tmp_path / "run" / "translate" / "grid.png").size[0] > 300
    # A table that has grown is standardized as the run knows it.
    grown = np.concatenate([first, first + 1e3])
    (tmp_path / "from.csv").write_text("u,v\n" + "".join(f"{u!r},{v!r}\n" for u, v in grown.tolist()))
    of_run = workdirs.of_run(experiment, tmp_path / "run")
    assert of_run.base_split("test").facts["shift"] == report_of(tmp_path / "run")["base"]["shift"]
    assert experiment.base_split("test").facts["shift"] != report_of(tmp_path / "run")["base"]["shift"]
    pictures = {**changes, "translate": {"images": "x", "source": 0}}
    with pytest.raises(UserError, match="config.translate.images is a folder of pictures, but these data are points"):
        translate.run_command(toy("rectified_flow", "moons", changes=pictures), tmp_path / "run")
    mixed = {"data": {"base": {"source": "digits"}, "num_classes": 0}, "model": {"conditional": False}}
    with pytest.raises(UserError, match="take two of images, or of points"):
        toy("rectified_flow", "moons", changes=mixed)


def report_of(workdir):
    return json.loads((workdir / "data.json").read_text())


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """A rectified flow on the checkerboard, reflowed twice and distilled to one step."""
    workdir = tmp_path_factory.mktemp("flow")
    experiment = toy("rectified_flow", "checkerboard", changes={"reflow": {"rounds": 3, "distill_steps": 1}})
    train.run_command(experiment, workdir)
    reflow.run_command(experiment, workdir)
    return experiment, workdir


def test_a_stage_warms_up_and_cools_down_in_a_tenth_of_its_own_steps_at_most():
    changes = {"train": {"cooldown_steps": 350}, "optimizer": {"warmup_steps": 10}}
    stage = reflow._config(toy("rectified_flow", changes=changes), pathlib.Path("pairs"), "1", student=False)
    assert (stage["train"]["num_steps"], stage["train"]["cooldown_steps"]) == (300, 30)
    assert stage["optimizer"]["warmup_steps"] == 10


def test_reflow_straightens_and_one_step_becomes_enough(flow):
    rows = json.loads((flow[1] / "reflow" / "report.json").read_text())["stages"]
    assert list(rows) == ["1", "2", "3", "3_distilled"]
    one_step = [rows[name]["few_steps"][0]["rms_difference"] for name in rows]
    assert rows["2"]["straightness"] < 0.1 * rows["1"]["straightness"]
    assert one_step[1] < 0.2 * one_step[0]
    assert one_step[3] < 0.2 * one_step[0]
    # Rectified pairs cost no more to transport than those of before (Liu et al. 2022, theorem 3.5), but for what was learned.
    assert rows["2"]["transport_cost"] < 1.1 * rows["1"]["transport_cost"]
    for name in ("1", "2"):  # length = cost + S, since E[x1 - x0 - f] along a solution is 0
        assert rows[name]["path_length"] == pytest.approx(
            rows[name]["transport_cost"] + rows[name]["straightness"], rel=0.05
        )
    page = (flow[1] / "reflow" / "report.md").read_text()
    assert "| 2-rectified |" in page
    assert "| 3-rectified, distilled |" in page


def test_pairs_are_the_models_own(flow):
    """Point i at t = 0 is that of fold_in(key, i); the other end is where the averaged model's ODE carries it."""
    experiment, workdir = flow
    pairs = Pairs(workdir / "reflow" / "2" / "pairs", experiment.spec)
    assert len(pairs) == 2000
    chosen = np.array([0, 599, 600, 1999])
    found = pairs.read(chosen)
    points = sampling.noise_for(jax.random.key(0), jnp.asarray(chosen), (2,))
    np.testing.assert_allclose(found["base"], points, rtol=1e-6)
    model = scoreflow_jax.load(workdir)
    np.testing.assert_allclose(found["image"], model.decode(points), atol=5e-3)
    np.testing.assert_array_equal(pairs.labels(), np.zeros(2000))


@pytest.mark.parametrize("name", ["x0_000001.npy", "x1_000003.npy", "labels_000000.npy", "pairs.json", "SHA256SUMS"])
def test_pairs_with_a_bit_turned_over_are_refused(flow, tmp_path, name):
    experiment, workdir = flow
    shutil.copytree(workdir / "reflow" / "2" / "pairs", tmp_path / "pairs")
    for place in (0.1, 0.5, 0.9):
        path = tmp_path / "pairs" / name
        whole = path.read_bytes()
        content = bytearray(whole)
        content[int(place * len(content))] ^= 2
        path.write_bytes(content)
        with pytest.raises(UserError, match="run --mode=reflow again"):
            Pairs(tmp_path / "pairs", experiment.spec)
        path.write_bytes(whole)
    assert len(Pairs(tmp_path / "pairs", experiment.spec)) == 2000


def test_pairs_of_an_earlier_version_get_their_sums_and_damaged_ones_are_made_anew(flow, tmp_path, capsys):
    experiment, workdir = flow
    shutil.copytree(workdir, tmp_path / "run")
    pairs, shards = tmp_path / "run" / "reflow" / "2" / "pairs", range(4)
    whole = {path.name: path.read_bytes() for path in pairs.iterdir()}
    assert reflow._there(pairs, shards)[1] == []
    content = bytearray(whole["x1_000002.npy"])
    content[-5] ^= 1
    (pairs / "x1_000002.npy").write_bytes(content)
    assert reflow._there(pairs, shards)[1] == [2]
    assert "shard 2 of the pairs in" in capsys.readouterr().err
    (pairs / "SHA256SUMS").unlink()
    (pairs / "x1_000002.npy").write_bytes(whole["x1_000002.npy"])
    (pairs / "labels_000003.npy").unlink()
    stated, missing = reflow._there(pairs, shards)
    assert missing == [3]
    assert len(stated) == 9
    assert "has no sum" in capsys.readouterr().err
    assert stated.items() <= sums.read_sums(workdir / "reflow" / "2" / "pairs").items()


def test_reflow_goes_on_where_it_was_stopped(flow, tmp_path, capsys):
    """Shards that are there are not made again, a finished stage is left alone, and other settings are refused."""
    experiment, workdir = flow
    shutil.copytree(workdir, tmp_path / "run")
    run = tmp_path / "run"
    pairs = run / "reflow" / "2" / "pairs"
    kept = np.load(pairs / "x1_000000.npy")
    lost = np.load(pairs / "x1_000002.npy")
    for path in pairs.glob("*_000002.npy"):
        path.unlink()
    shutil.rmtree(run / "reflow" / "2" / "checkpoints")
    before = (pairs / "x1_000000.npy").stat().st_mtime_ns
    fewer = toy("rectified_flow", "checkerboard", changes={"reflow": {"rounds": 2, "num_pairs": 1000}})
    with pytest.raises(UserError, match="holds pairs made otherwise"):
        reflow.run_command(fewer, run)
    again = toy("rectified_flow", "checkerboard", changes={"reflow": {"rounds": 2}})
    reflow.run_command(again, run)
    assert "2000 pairs, 1 shards made" in capsys.readouterr().out
    assert (pairs / "x1_000000.npy").stat().st_mtime_ns == before
    np.testing.assert_array_equal(np.load(pairs / "x1_000000.npy"), kept)
    np.testing.assert_allclose(np.load(pairs / "x1_000002.npy"), lost, atol=1e-5)
    ours, theirs = (scoreflow_jax.load(folder / "reflow" / "2") for folder in (run, workdir))
    x = np.zeros((3, 2), np.float32) + np.arange(3, dtype=np.float32)[:, None]
    np.testing.assert_allclose(ours.drift(x, 0.3), theirs.drift(x, 0.3), atol=1e-3)
    reflow.run_command(again, run)
    assert "reflow 2: already trained to step 300" in capsys.readouterr().out
    for changes, match in (
        ({"reflow": {"rounds": 2, "seed": 5}}, "was trained on pairs made otherwise"),
        ({"reflow": {"rounds": 2}, "solver": {"rtol": 1e-2}}, "was trained on pairs made otherwise"),
        ({"reflow": {"rounds": 2}, "optimizer": {"b1": 0.8}}, r"optimizer.b1 is 0.8, was 0.9"),
        ({"reflow": {"rounds": 2, "num_pairs": 100}}, "expected at least a batch, 256"),
        ({"reflow": {"rounds": 2, "distill_steps": 1, "distance": "ssim"}}, "distance is 'ssim'"),
        ({"solver": {"method": "euler", "num_steps": 5}}, "pairs need the ODE solved"),
    ):
        with pytest.raises(UserError, match=match):
            reflow.run_command(toy("rectified_flow", "checkerboard", changes=changes), run)


def test_a_stage_is_a_run_like_any_other(flow, tmp_path):
    experiment, workdir = flow
    stage = workdir / "reflow" / "3_distilled"
    config = json.loads((stage / "config.json").read_text())
    assert config["objective"]["name"] == "distillation"
    sample.run_command(build(config), stage)
    assert report(stage / "sample")["cost"]["nfe_mean"] == 1.0


def test_reflow_is_of_the_straight_path(tmp_path):
    with pytest.raises(UserError, match="of the straight path"):
        reflow.run_command(toy("vp"), tmp_path)
    with pytest.raises(UserError, match="holds no pairs"):
        Pairs(tmp_path, toy("vp").spec)


def test_a_learned_path_trains_and_samples_with_its_numbers(tmp_path):
    path = {"name": "learned", "num_terms": 2, "t_min": 0.0}
    experiment = toy("interpolant", path=path)
    train.run_command(experiment, tmp_path)
    model = scoreflow_jax.load(tmp_path)
    assert np.abs(np.asarray(model.params["path"])).max() > 0.01
    moved = model.experiment.drift(model.params).path
    assert float(moved.alpha(jnp.float32(0.5))) != pytest.approx(0.5, abs=1e-3)
    assert model.generate(jax.random.key(0), np.arange(8)).shape == (8, 2)


def test_between_two_densities_by_ode_and_by_sde_either_way(tmp_path, optimized):
    """A latent gives two data sets a score: moons to eight Gaussians, forwards and back, land where they should."""
    path = {"name": "linear", "t_min": 0.0, "latent": "sine", "latent_scale": 0.5}
    sampler = {"name": "euler_maruyama", "num_steps": 200, "schedule": "gamma", "noise": 1.0}
    changes = {
        "data": {"base": {"name": "moons"}, "num_classes": 0},
        "model": {"conditional": False, "width": 128, "num_blocks": 3},
        "train": {"num_steps": 1500, "checkpoint_every": 1500, "batch_size": 512},
        "sampler": sampler,
    }
    experiment = toy("interpolant", changes=changes, path=path)
    train.run_command(experiment, tmp_path)
    model = scoreflow_jax.load(tmp_path)
    forwards = model.solve_samples(jax.random.key(0), 500, None).y
    angles = np.arange(8) * np.pi / 4
    means = 4 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    away = np.linalg.norm(forwards[:, None] * 2.85 - means[None], axis=2)
    assert np.mean(away.min(axis=1) < 1.0) > 0.88
    assert np.bincount(away.argmin(axis=1), minlength=8).min() > 30  # of 62
    back = model.solve_stochastic(jax.random.key(1), forwards, backwards=True).y
    moons = experiment.base_split("test").read(np.arange(2000))["image"]
    nearest = np.linalg.norm(back[:, None] - moons[None], axis=2).min(axis=1)
    assert np.median(nearest) < 0.25
    with pytest.raises(UserError, match="no likelihood"):
        model.log_likelihood(forwards)
    with pytest.raises(UserError, match="expected 'euler_maruyama', the SDE that goes both ways"):
        model.with_sampler(Sampler()).solve_stochastic(jax.random.key(1), forwards)


def test_likelihood_on_the_way(monkeypatch):
    """At t the density is that of x_t: with the exact drift to N(m, s^2) that of N(t m, (1 - t)^2 + t^2 s^2)."""
    mean, std = np.array([1.0, -2.0], np.float32), 0.4
    experiment = toy("rectified_flow")
    oracle = oracles.gaussian(experiment.path, mean, std)
    monkeypatch.setattr(type(experiment), "drift", lambda self, *_: lambda x, t, label: oracle.velocity(x, t))
    model = Model(experiment, {}, 0)
    x = np.asarray(jax.random.normal(jax.random.key(0), (6, 2)))
    for t in (0.3, 0.7, 1.0):
        spread = np.sqrt((1 - t) ** 2 + (t * std) ** 2)
        known = np.sum(-0.5 * ((x - t * mean) / spread) ** 2 - np.log(spread), 1) - np.log(2 * np.pi)
        np.testing.assert_allclose(model.log_likelihood(x, 0, probe="exact", time=t), known, rtol=2e-3, atol=2e-3)
    with pytest.raises(UserError, match="expected one from 0"):
        model.log_likelihood(x, 0, time=0.0)


def test_a_study_measures_its_cells_goes_on_and_says_what_differs(tmp_path, capsys):
    fewer = {"num_images": 50, "batch_size": 50, "residual_images": 20, "straightness": False, "reversibility": False}
    changes = {"train": {"num_steps": 20, "checkpoint_every": 20}, "eval": {**fewer, "likelihood": "none"}}
    config = toy("rectified_flow", changes=changes).config
    cells = {
        "as it is": {},
        "euler": {
            "of": "as it is",
            "changes": {"sampler": {"name": "ddim", "num_steps": 3}},
            "why": {"residual": "its run's"},
        },
        "p = 2": {"changes": {"objective": {**config["objective"], "weight_exponent": 2.0}}},
    }
    config["study"] = {"seeds": (0, 1), "baseline": "as it is", "cells": cells, "order": tuple(cells)}
    config["study"]["comparisons"] = {"weight": {"cell": "p = 2", "against": "as it is", "figure": "residual"}}
    study.run_command(build(config), tmp_path)
    page = (tmp_path / "study.md").read_text()
    assert page.index("| as it is |") < page.index("| euler |") < page.index("| p = 2 |")
    rows = json.loads((tmp_path / "study.json").read_text())["rows"]
    assert [len(runs) for runs in rows.values()] == [2, 2, 2]
    assert {run["nfe"] for run in rows["euler"]} == {4.0}
    assert "against as it is" in page
    assert "not decided: 2 of 8 seeds" in page
    assert "earlier version of the draws" not in page
    assert Image.open(tmp_path / "along_t.png").size[0] > 300
    capsys.readouterr()
    study.run_command(build(config), tmp_path)
    assert "trained steps" not in capsys.readouterr().out
    assert (tmp_path / "study.md").read_text() == page
    for wrong, match in (
        ({"baseline": "no such"}, "expected one of as it is, euler"),
        ({"comparisons": {"w": {"cell": "p = 2"}}}, "comparisons.w has .'cell'., expected cell, against, figure"),
        (
            {"comparisons": {"w": {"cell": "p = 2", "against": "as it is", "figure": "fid"}}},
            "w.figure is 'fid', expected one of",
        ),
        ({"cells": {"as it is": {"colour": 1}}, "order": ()}, "has 'colour'"),
        ({"cells": {"as it is": {"of": "x"}}, "order": ()}, "expected a cell that is trained itself"),
        ({"cells": {}, "order": ()}, "no config.study.cells"),
        ({"cells": {"as it is": {}, "As it, is": {}}, "order": ()}, "would share the folder as_it_is"),
    ):
        with pytest.raises(UserError, match=match):
            study.run_command(build({**config, "study": {**config["study"], **wrong}}), tmp_path)
    # A run of an earlier version says nothing of its draws: it is measured anew, and the page names it.
    for meta in tmp_path.glob("p_2/seed0/checkpoints/*/meta/metadata"):
        meta.write_text(json.dumps({k: v for k, v in json.loads(meta.read_text()).items() if k != "draws"}))
        (meta.parents[1] / "SHA256SUMS").unlink()
    study.run_command(build(config), tmp_path)
    assert "earlier version of the draws than 2, at least in part: p = 2." in (tmp_path / "study.md").read_text()
    other = {**config, "optimizer": {**config["optimizer"], "b1": 0.8}}
    with pytest.raises(
        UserError, match=r"as_it_is.seed0 is the workdir of another config .*optimizer.b1 is 0.8, was 0.9"
    ):
        study.run_command(build(other), tmp_path)


def test_a_minus_is_told_from_a_dash():
    assert study.slug("p = -1") == "p_minus_1" != study.slug("p = 1")
    assert study.slug("2-rectified, one-step") == "2_rectified_one_step"


def test_a_sampler_is_refused_where_it_means_nothing(tmp_path):
    with pytest.raises(UserError, match=r"config.sampler: name is 'ancestral', which needs a score"):
        toy(
            "interpolant",
            "checkerboard",
            changes={"sampler": {"name": "ancestral"}, "data": {"base": {"name": "moons"}}},
        )
    experiment = toy("vp", changes={"train": {"num_steps": 1}, "sample": {"likelihood": True}})
    train.run_command(experiment, tmp_path)
    with pytest.raises(UserError, match="likelihoods are the ODE's"):
        sample.run_command(experiment, tmp_path)
