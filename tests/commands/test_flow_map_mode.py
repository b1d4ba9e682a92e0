"""A flow map through every mode: trained, from a teacher too, sampled, translated and measured in few calls; what is refused."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

import scoreflow_jax
from scoreflow_jax.command_line import load_config
from scoreflow_jax.commands import (
    draw_figures,
    evaluate,
    failures,
    interpolate,
    publish,
    sample,
    study,
    train,
    translate,
)
from scoreflow_jax.commands.teacher import begun_from, open_teacher, with_teacher
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.densities import as_trained
from scoreflow_jax.evaluation.few_calls import FewCalls
from scoreflow_jax.experiment import build, resolve
from scoreflow_jax.loading import load_model
from scoreflow_jax.model import Model
from scoreflow_jax.ode import Solver
from scoreflow_jax.parallel import make_layout
from scoreflow_jax.plain_config import merged, read_config, to_plain
from scoreflow_jax.training import create_state
from tests.changes import set_fields
from tests.commands.runs import SHRUNK, report
from tests.conftest import ROOT

JUMPS = {"solver__method": "flow_map", "solver__num_steps": 2}
TINY = {
    "model__width": 16, "model__num_blocks": 1, "train__num_steps": 4, "train__log_every": 2, "train__checkpoint_every": 4,
    "train__batch_size": 64, "train__tensorboard": False, "optimizer__warmup_steps": 1, "sample__num_images": 50,
    "sample__batch_size": 50, "translate__num_images": 10, "interpolate__num_pairs": 2, "eval__batch_size": 100,
}  # fmt: skip


def points(name="flow_map", **changes):
    """A config of the plane, of a tiny network."""
    config = to_plain(load_config(f"{ROOT / 'configs' / name}.py:moons"))
    return build(resolve(set_fields(config, {**TINY, **changes})))


def images(**changes):
    """The smoke variant on digits."""
    config = to_plain(load_config(f"{ROOT / 'configs' / 'flow_map'}.py:digits"))
    config["model"].update(base_channels=8, attention_resolutions=(), **SHRUNK)
    return build(resolve(set_fields(config, {**changes})))


@pytest.fixture(scope="module")
def moons(tmp_path_factory):
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("moons")
    train.run_command(points(), folder)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A plain rectified flow of four steps."""
    folder = tmp_path_factory.mktemp("teacher")
    train.run_command(points("rectified_flow"), folder)
    return folder


def test_modes_in_few_calls(moons, capsys):
    """NFE is the number of jumps; a translation goes twice, by the one method that a map can."""
    experiment = points(**JUMPS)
    sample.run_command(experiment, moons)
    found = report(moons / "sample")
    assert (found["cost"]["nfe_mean"], found["solver"]["method"], found["solver"]["steps"]) == (2, "flow_map", 2)
    translate.run_command(experiment, moons)
    methods = report(moons / "translate")["methods"]
    assert list(methods) == ["latent"]
    assert methods["latent"]["cost"]["nfe_mean"] == 2 * 2  # what path.png shows on the way is made apart
    assert (moons / "translate" / "path.png").exists()
    with pytest.raises(UserError, match="config.translate.method is 'difference'"):
        translate.run_command(points(**JUMPS, translate__method="difference"), moons)
    interpolate.run_command(experiment, moons)
    assert report(moons / "interpolate")["cost"]["nfe_mean"] == 2


def test_an_evaluation_by_jumps_leaves_densities_out(moons, capsys):
    off = {f"eval__{part}__on": False for part in ("generation", "reversibility")}
    with pytest.raises(UserError, match="nothing that is asked for can be measured"):
        evaluate.run_command(points(**JUMPS, **off, eval__translation__on=False), moons)
    assert "likelihood is left out: densities integrate more than the drift" in capsys.readouterr().err


def test_reversibility_is_measured_by_calls(moons):
    """Of each number of jumps, with what the model's own methods give."""
    off = {f"eval__{part}__on": False for part in ("generation", "likelihood", "translation")}
    of = {"eval__reversibility__images": 20, "eval__reversibility__calls": (1, 3), "eval__reversibility__on": True}
    evaluate.run_command(points(**JUMPS, **off, **of), moons)
    found = report(next((moons / "eval").iterdir()))["reversibility"]["by_tolerance"]
    assert [(name, e["nfe_encode"], e["nfe_decode"]) for name, e in found.items()] == [
        ("1 jump", 1, 1),
        ("3 jumps", 3, 3),
    ]
    model = scoreflow_jax.load(moons).with_solver(Solver(method="flow_map", num_steps=3))
    data = evaluate.Data(model.experiment)
    held, labels = data.images("test", data.some(20))
    latents = model.encode(held, labels)
    np.testing.assert_allclose(found["3 jumps"]["latents_deviation"], latents.std(), rtol=1e-4)
    error = np.abs(model.decode(latents, labels) - held).max()
    np.testing.assert_allclose(found["3 jumps"]["max_absolute_error"], error, rtol=1e-4)


def test_few_calls_are_measured_beside_the_ode(moons, tmp_path):
    """Errors and calls agree with the model's own methods; a row a number of calls, and the ODE's."""
    fields = {"images": 30, "calls": (1, 3), "translations": 2, "held_out": 20}
    few = {f"eval__few_calls__{name}": value for name, value in {"on": True, **fields}.items()}
    off = {f"eval__{part}__on": False for part in ("generation", "reversibility", "likelihood", "translation")}
    evaluate.run_command(points(**few, **off), moons)
    folder = next((moons / "eval").iterdir())
    figures = report(folder)["few_calls"]
    assert list(figures["rows"]) == ["1", "3", "ODE"]
    assert [r["nfe"] for r in figures["rows"].values()][:2] == [1, 3]
    model = scoreflow_jax.load(moons)
    jumping = model.with_solver(Solver(method="flow_map", num_steps=3))
    data = evaluate.Data(model.experiment)
    held, labels = data.images("test", data.some(20))
    latents = jumping.encode(held, labels)
    error = np.abs(jumping.decode(latents, labels) - held).mean()
    row = figures["rows"]["3"]
    np.testing.assert_allclose(row["encode_and_decode"], error, rtol=1e-3)
    corrected = model.with_solver(Solver(method="flow_map", num_steps=3, corrections=1))
    back = jumping.decode(corrected.encode(held, labels), labels)
    np.testing.assert_allclose(row["corrected"], np.abs(back - held).mean(), rtol=1e-3)
    np.testing.assert_allclose(
        [row["latents_mean"], row["latents_deviation"]], [latents.mean(), latents.std()], rtol=1e-3
    )
    assert figures["rows"]["ODE"]["rms_difference"] == 0.0
    noise, classes = np.asarray(model.source_points(jax.random.key(data.seed), 30)), data.labels(30)
    one, two = (
        model.with_solver(Solver(method="flow_map", num_steps=n)).decode(noise, classes) for n in (1, 2)
    )  # the semigroup from 0 by 1/2 to 1
    np.testing.assert_allclose(
        figures["rows"]["1"]["off_its_halves"], np.sqrt(np.mean((one - two) ** 2)), rtol=1e-2, atol=1e-6
    )
    page = (folder / "report.md").read_text()
    assert "## In few network calls" in page
    assert "| ODE |" in page
    assert FewCalls.for_study(figures)["latents_deviation_1"] == figures["rows"]["1"]["latents_deviation"]


def test_straightness_compares_jumps_where_they_are_the_way(moons, tmp_path):
    """Of the ODE, whatever the solver; the few steps are the solver's, off by what a model of as many jumps is."""
    loaded = scoreflow_jax.load(moons)
    leaves, shape = jax.tree.flatten(loaded.params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [a + 0.3 * jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)]
    model = Model(loaded.experiment, jax.tree.unflatten(shape, drawn), 4)  # a bent ODE, which its jumps know nothing of
    data = evaluate.Data(model.experiment)
    part = dataclasses.replace(data.settings.straightness, images=20, times=3, steps=(1, 3))
    by = {
        n: part.measure(model.with_solver(Solver(method=n, num_steps=2)), data, tmp_path) for n in ("flow_map", "heun")
    }
    np.testing.assert_allclose(by["flow_map"]["along_t"], by["heun"]["along_t"], rtol=1e-2)
    assert [r["by"] for r in by["flow_map"]["few_steps"]] == ["jump", "jump"]
    assert [r["by"] for r in by["heun"]["few_steps"]] == ["Euler step", "Euler step"]
    noise, labels = np.asarray(model.source_points(jax.random.key(data.seed), 20)), data.labels(20)
    ode, jumped = (
        model.with_solver(s).decode(noise, labels) for s in (Solver(), Solver(method="flow_map", num_steps=3))
    )
    off = np.sqrt(np.mean((ode - jumped) ** 2))
    assert off > 0.1
    np.testing.assert_allclose(by["flow_map"]["few_steps"][1]["rms_difference"], off, rtol=1e-2)
    assert "| 3 jumps | 3 |" in part.page(by["flow_map"], {})
    assert "| 1 Euler step | 1 |" in part.page(by["heun"], {})


def test_latents_are_of_images_as_in_training():
    """Grey levels are no draws of the density of dequantized images: each stays in its cell, and every draw is another."""
    experiment = images(data__dequantize=True)
    params = experiment.init(jax.random.key(0))
    model, plain = (Model(experiment, params, 0, trained_config={"data": {"dequantize": on}}) for on in (True, False))
    data = evaluate.Data(experiment)
    levels = data.examples("test")["image"][data.some(50)]
    found = as_trained(model, data, 50)
    assert (np.floor(17 * (np.asarray(found, np.float64) + 1) / 2) == levels).all()
    share = 17 * (found + 1) / 2 - levels
    np.testing.assert_allclose([share.mean(), share.std()], [0.5, 12**-0.5], atol=0.02)
    assert as_trained(plain, data, 50) is None  # they are as in training


def test_a_teacher_gives_its_weights_and_is_known_by_them(teacher, tmp_path, capsys):
    """Begun with, compared with, filled into the config, found again after a move; another one is refused."""
    experiment = points(objective__teacher=str(teacher))
    opened, model = open_teacher(experiment, make_layout())
    fresh = experiment.init(jax.random.key(0))
    params, found = begun_from(fresh, model, opened)
    assert found
    np.testing.assert_array_equal(params["in"]["kernel"], model.params["in"]["kernel"])
    np.testing.assert_array_equal(params["jump_1"]["kernel"], fresh["jump_1"]["kernel"])
    run = tmp_path / "run"
    train.run_command(experiment, run)
    assert "the network begins with its weights" in capsys.readouterr().out
    assert read_config(run)["objective"]["teacher_sha256"] == model.fingerprint
    moved = tmp_path / "moved"
    shutil.copytree(teacher, moved)
    train.run_command(points(objective__teacher=str(moved), train__num_steps=6), run)
    assert "the network is gone on with" in capsys.readouterr().out
    # A teacher's weights are in no checkpoint: the trained run is loaded without it.
    assert load_model(build(read_config(run)), run).step == 6
    with pytest.raises(UserError, match="are not those that it learns from"):
        train.run_command(points(objective__teacher=str(run), train__num_steps=8), run)
    with pytest.raises(UserError, match="this run learns from a teacher .* and config.objective.teacher is None"):
        train.run_command(points(train__num_steps=8), run)
    with pytest.raises(UserError, match="config.objective.teacher: .*Give the folder of the run to learn from"):
        train.run_command(points(objective__teacher=str(tmp_path / "nowhere"), train__num_steps=8), run)
    with pytest.raises(UserError, match="a run of other data or another path"):
        train.run_command(points(objective__teacher=str(teacher), path__t_max=0.9), tmp_path / "other")
    with pytest.raises(UserError, match="beside a teacher, which is told every label, none can be dropped"):
        train.run_command(points(objective__teacher=str(teacher), model__label_dropout=0.1), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_card_says_what_it_learned_from(teacher, tmp_path):
    """And what that had seen, as long as it is where it was: the examples of a flow map alone would say too little."""
    run = tmp_path / "run"
    place = pathlib.Path(shutil.copytree(teacher, tmp_path / "teacher"))
    experiment = points(objective__teacher=str(place), train__num_steps=2, publish__columns=2)
    train.run_command(experiment, run)
    sha256 = read_config(run)["objective"]["teacher_sha256"][:12]
    publish.run_command(experiment, run, str(tmp_path / "out"))
    text = (tmp_path / "out" / "README.md").read_text()
    assert "- 128 examples seen: 2 steps of 64" in text
    assert f"teacher (weights of sha256 {sha256}), which had seen 256 examples in 4 steps of 64; these" in text
    assert json.loads((tmp_path / "out" / "config.json").read_text())["objective"]["teacher"] is None
    place.rename(tmp_path / "moved")
    publish.run_command(experiment, run, str(tmp_path / "out"))
    assert f"teacher (weights of sha256 {sha256}); these" in (tmp_path / "out" / "README.md").read_text()


def test_a_larger_teacher_is_learned_from_but_not_begun_with(teacher, tmp_path, capsys):
    train.run_command(points(objective__teacher=str(teacher), model__width=20), tmp_path / "run")
    assert "the network is another one and begins afresh" in capsys.readouterr().out


def test_a_loss_against_a_teacher_is_0_at_its_weights(teacher):
    """Rows with s = t: the network is the teacher. The gradient is then of the jumps alone."""
    experiment, model = open_teacher(points(objective__teacher=str(teacher), objective__weight=0.0), make_layout())
    params, _ = begun_from(experiment.init(jax.random.key(0)), model, experiment)
    state = dataclasses.replace(jax.eval_shape(experiment.initial_state), teacher=model.params)
    batch = {"image": np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32), "label": np.arange(64) % 2}
    loss = experiment.train_loss().of(state)
    drawn = loss.draw(jax.random.key(1), {k: jax.numpy.asarray(v) for k, v in batch.items()})
    assert float(loss.mean(params, drawn)) < 1e-10
    alone = points(objective__weight=0.0).train_loss()
    assert float(alone.mean(params, drawn)) > 0.1


def test_a_teacher_stays_as_it_is(teacher):
    """A step changes the network and not what it is compared with; without a teacher the state holds none."""
    experiment = points(objective__teacher=str(teacher), optimizer__warmup_steps=0)
    experiment, model = open_teacher(experiment, make_layout())
    state = experiment.initial_state()
    assert state.teacher is None
    batch = {"image": jax.numpy.ones((64, 2)), "label": jax.numpy.arange(64) % 2}
    new, _ = jax.jit(experiment.train_step())(with_teacher(state, model, make_layout()), batch)
    np.testing.assert_array_equal(new.teacher["in"]["kernel"], model.params["in"]["kernel"])
    assert np.abs(new.params["in"]["kernel"] - state.params["in"]["kernel"]).max() > 0


def test_guided_jumps_are_trained_and_sampled(tmp_path):
    """Half of the weights are 1 and the others even up to the largest; without the drift of no label they are refused."""
    experiment = points(model__most_guidance=3.0, model__label_dropout=0.2, sample__guidance=2.0, **JUMPS)
    batch = {"image": jax.numpy.ones((4000, 2)), "label": jax.numpy.arange(4000) % 2}
    w = np.asarray(experiment.train_loss().draw(jax.random.key(0), batch).guidance)
    assert abs((w == 1).mean() - 0.5) < 0.04
    assert abs(w[w > 1].mean() - 2.0) < 0.05
    assert w.max() <= 3.0
    train.run_command(experiment, tmp_path)
    sample.run_command(experiment, tmp_path)
    assert report(tmp_path / "sample")["cost"]["nfe_mean"] == 2
    with pytest.raises(UserError, match="config.model.most_guidance needs the drift without a label too"):
        points(model__most_guidance=3.0)


def test_a_teacher_of_guided_jumps_knows_the_drift_without_a_label(teacher, tmp_path):
    with pytest.raises(UserError, match="does not know the drift without a label"):
        train.run_command(points(objective__teacher=str(teacher), model__most_guidance=2.0), tmp_path / "run")


def test_pictures_of_images(tmp_path):
    """On digits: the same noise and the same translations in rows, and the paper's figures by the one method."""
    experiment = images(
        train__num_steps=2,
        train__checkpoint_every=2,
        train__sample_every=0,
        train__batch_size=16,
        train__tensorboard=False,
    )
    train.run_command(experiment, tmp_path)
    model = load_model(experiment, tmp_path, batch_size=50)
    part = FewCalls(images=20, calls=(1, 2), translations=1, held_out=5)
    data = evaluate.Data(model.experiment)
    figures = part.measure(model.with_solver(Solver(rtol=1e-2, atol=1e-2)), data, tmp_path)
    assert figures["rows"]["1"]["translations"] == 90
    assert {"few_calls.png", "few_calls_translated.png"} <= {p.name for p in tmp_path.iterdir()}
    fields = {"num_images": 2, "num_times": 3, "num_pairs": 1, "num_steps": 3, "batch_size": 10}
    changes = {f"figures__{name}": value for name, value in fields.items()}
    jumping = build(resolve(set_fields(to_plain(experiment.config), {**JUMPS, **changes})))
    draw_figures.run_command(jumping, tmp_path)
    told = json.loads((tmp_path / "figures" / "report.json").read_text())["figures"]["figure4"]["translations"]
    assert list(told) == ["latent"]


def test_a_network_that_has_learned_no_jumps_makes_none(teacher):
    """Told one time, or two and never trained to jump: it would be Euler's method by another name."""
    with pytest.raises(UserError, match="config.eval.few_calls measures jumps"):
        evaluate.run_command(points("rectified_flow", eval__few_calls__on=True), teacher)
    with pytest.raises(UserError, match="this network has learned no jumps"):
        points("rectified_flow", model__two_times=True, **JUMPS)
    with pytest.raises(UserError, match="config.parameterization.predicts is 'data'"):
        points(parameterization__predicts="data", path__t_max=0.999)
    with pytest.raises(UserError, match="this network's embedding of t is too steep"):
        points(objective__rule="eulerian", model__time_scale=999.0)
    with pytest.raises(UserError, match="config.solver.between has 0.999, expected times between the path's ends"):
        points(**JUMPS, solver__between=(0.999,), path__t_max=0.99)


def test_a_teacher_lies_where_the_weights_do(tmp_path):
    """Split among two devices, and in microbatches: the step takes the state that it was compiled for, and no teacher moves."""
    wide = {"model__width": 128, "train__num_steps": 1, "train__checkpoint_every": 1, "train__log_every": 1}
    train.run_command(points("rectified_flow", **wide), tmp_path / "teacher")
    layout = make_layout(jax.devices()[:2], fsdp=2)
    experiment = points(objective__teacher=str(tmp_path / "teacher"), train__fsdp=2, train__microbatches=2, **wide)
    experiment, model = open_teacher(experiment, layout)
    state = create_state(experiment.initial_state, layout)
    params, found = begun_from(state.params, model, experiment)
    assert found
    state = with_teacher(dataclasses.replace(state, params=params), model, layout)
    split = [a for a in jax.tree.leaves(state.teacher) if not a.sharding.is_fully_replicated]
    assert split
    step = train.compiled_steps(experiment, layout, state).one
    batch = {"image": np.ones((64, 2), np.float32), "label": np.arange(64, dtype=np.int32) % 2}
    before = np.asarray(state.teacher["in"]["kernel"])
    new, metrics = step(state, jax.device_put(batch, layout.batch))
    assert np.isfinite(float(metrics["loss"]))
    np.testing.assert_array_equal(new.teacher["in"]["kernel"], before)


def test_a_teacher_of_another_kind_is_not_begun_with(teacher, tmp_path):
    """Arrays of the same shapes are not the same function: here the embedding of t is another."""
    experiment, model = open_teacher(points(objective__teacher=str(teacher), model__time_scale=4.0), make_layout())
    params = experiment.init(jax.random.key(0))
    assert begun_from(params, model, experiment) == (params, False)


def test_a_diagnosis_repeats_a_step_beside_the_teacher(teacher, tmp_path):
    """The teacher rides in no checkpoint: it is opened again, where the run's config says that it lies now."""
    moved = tmp_path / "teacher"
    shutil.copytree(teacher, moved)
    layout = make_layout(jax.devices()[:1])
    opened, model = open_teacher(points(objective__teacher=str(moved)), layout)
    state = with_teacher(create_state(opened.initial_state, layout), model, layout)
    state = state.replace(params=jax.tree.map(lambda leaf: leaf + 0.1, state.params))
    sources = train.open_sources(opened)
    failures.dump(opened, tmp_path, sources, 0, state, {"loss": 1.0}, 0)
    shutil.move(moved, tmp_path / "elsewhere")
    there = merged(to_plain(opened.config), {"objective": {"teacher": str(tmp_path / "elsewhere")}})
    (tmp_path / "config.json").write_text(json.dumps(there))
    failures.run_command(tmp_path)
    found = json.loads((tmp_path / "failure-1" / "diagnosis.json").read_text())
    batch = next(train.global_batches(opened, sources, layout, 0))
    _, metrics = jax.jit(opened.train_step())(state, batch)
    for name, value in metrics.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-4)


def test_a_study_trains_a_row_by_another_rows_run_of_the_same_seed(tmp_path):
    plain = points("rectified_flow", eval__generation__images=50)
    parts = {
        n: {"on": False} for n in ("translation", "residual", "straightness", "reversibility", "truncation", "audit")
    }
    config = merged(to_plain(plain.config), {"eval": {**parts, "likelihood": {"by": "none"}}})
    few = {"on": True, "images": 50, "calls": (1, 2), "translations": 0, "held_out": 50}
    jumps = {
        "objective": {**to_plain(points().config)["objective"]},
        "model": {"two_times": True},
        "eval": {"few_calls": few},
    }
    cells = {"plain": {}, "map": {"teacher": "plain", "changes": jumps}, "alone": {"changes": jumps}}
    config["study"] = {"seeds": (3,), "baseline": "plain", "cells": cells, "order": ("map", "plain", "alone")}
    experiment = build(config)
    study.run_command(experiment, tmp_path)
    its, theirs = (read_config(tmp_path / name / "seed3") for name in ("map", "plain"))
    assert its["objective"]["teacher_sha256"] == scoreflow_jax.load(tmp_path / "plain" / "seed3").fingerprint
    assert its["seed"] == theirs["seed"] == 3
    assert read_config(tmp_path / "alone" / "seed3")["objective"].get("teacher") is None
    rows = json.loads((tmp_path / "study.json").read_text())["rows"]
    assert rows["map"][0]["frechet_distance_1"] != rows["alone"][0]["frechet_distance_1"]
    # A folder that was moved is the same study: nothing is measured again.
    moved = shutil.move(tmp_path, tmp_path.with_name("moved"))
    before = {p: p.stat().st_mtime_ns for p in moved.glob("measured/*/*.json")}
    study.run_command(experiment, moved)
    assert len(before) == 3
    assert before == {p: p.stat().st_mtime_ns for p in moved.glob("measured/*/*.json")}
    # Another teacher is another run.
    longer = {"changes": {"train": {"num_steps": 6}}}
    other = merged(config, {"study": {"cells": {**cells, "plain": longer}}})
    with pytest.raises(UserError, match="averaged weights at step 6 are not those that it learns from"):
        study.run_command(build(other), moved)
    for wrong, match in (
        ({"map": {"teacher": "no such"}}, "teacher of config.study.cells.map is 'no such', expected a cell that is"),
        ({"alone": {"teacher": "map"}}, "is 'map', expected a cell that is trained without one"),
        ({"alone": {"of": "map", "teacher": "plain"}}, "alone is of 'map', whose run has its teacher"),
    ):
        with pytest.raises(UserError, match=match):
            study.run_command(build(merged(config, {"study": {"cells": {**cells, **wrong}}})), tmp_path)
