"""Every mode on every config's smoke variant, from training to reports; exact resume; and runs that must not start."""

import contextlib
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import scoreflow_jax
from scoreflow_jax.checkpoints import Checkpoints, checkpoint_steps
from scoreflow_jax.command_line import load_config
from scoreflow_jax.commands import compare, evaluate, interpolate, sample, statistics, train, translate
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.data import Digits
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.generation import distances
from scoreflow_jax.experiment import build, resolve, to_plain
from scoreflow_jax.parallel import make_layout
from scoreflow_jax.training import state_shapes
from tests.conftest import ROOT

SMOKED = ("digits.py", "image_folder.py", "cat_to_dog.py", "rectified_flow_256.py")
"""Configs that are trained here: one of each kind of data and network. The others differ from them in numbers only, and
tests/test_configs.py traces them at full size."""


def experiment_of(name, path=None, **changes):
    """The smoke variant of a config, with changes like train__num_steps=2."""
    config = to_plain(load_config(f"{ROOT / 'configs' / name}:smoke"))
    if path is not None:
        config["data"]["path"] = str(path)
    for field, value in changes.items():
        section, _, key = field.partition("__")
        if key:
            config[section][key] = value
        else:
            config[section] = value
    return build(resolve(config))


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """A trained smoke run of the digits."""
    workdir = tmp_path_factory.mktemp("digits")
    train.run_command(experiment_of("digits.py"), workdir)
    return workdir


def report(path):
    return json.loads((path / "report.json").read_text())


def data_path(name, request):
    """Where a config's data are."""
    if name == "cat_to_dog.py":
        return request.getfixturevalue("tfds_dir")
    return request.getfixturevalue("pictures_dir") / ("afhq" if name == "image_folder.py" else "images")


@pytest.mark.parametrize("name", SMOKED)
def test_smoke_variant_really_trains_and_samples(name, tmp_path, request):
    if name == "digits.py":
        experiment, tmp_path = experiment_of(name), request.getfixturevalue("digits_run")
    else:
        experiment = experiment_of(name, data_path(name, request))
        train.run_command(experiment, tmp_path)
    assert checkpoint_steps(tmp_path / "checkpoints") == [2, 4]
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [2, 4]
    assert all(np.isfinite(r["loss"]) and 0 <= r["data_wait_share"] <= 1 for r in records)
    assert (tmp_path / "train" / "samples_0000004.png").exists()
    assert "in_conv/kernel" in (tmp_path / "parameters.txt").read_text()

    sample.run_command(experiment, tmp_path)
    stored = np.load(tmp_path / "sample" / "samples.npz")
    assert stored["images"].shape == (10, *experiment.spec.shape)
    assert (stored["images"].dtype, stored["labels"].dtype) == (np.uint8, np.int32)
    classes = experiment.num_classes
    assert stored["labels"].tolist() == [i % classes if classes else 0 for i in range(10)]
    if not experiment.conditional and not experiment.data.base:
        with pytest.raises(UserError, match="unconditional model cannot translate"):
            translate.run_command(experiment, tmp_path)


@pytest.fixture(scope="module")
def evaluated(digits_run):
    """The digits' run with every part of its evaluation, of two seeds."""
    parts = {f"eval__{part}": True for part in evaluate.PARTS}
    evaluate.run_command(experiment_of("digits.py", eval__seeds=(1, 2), **parts), digits_run)
    return digits_run / "eval" / "4"


def test_eval_measures_generation_over_seeds(evaluated):
    generation = report(evaluated)["generation"]
    assert generation["images"] == 40
    assert generation["by_seed"].keys() == {"1", "2"}
    first, second = generation["by_seed"].values()
    # What the report says of real images does not depend on the model and is known.
    real = generation["real"]
    assert real["recognized"] > 0.97
    assert real["nearest_training_distance"] > 1
    assert abs(real["kid"]) < 0.05
    # An untrained model's images are noise: far from every digit, and recognized by chance.
    assert first["nearest_training_distance"] > 1.5 * real["nearest_training_distance"]
    assert first["recognized"] < 0.4
    assert first["kid"] > 0.2
    assert first["precision"] < 0.1
    assert (
        first["frechet_distance"]
        == "not measured: 40 images are too few for a covariance of 64 features (give at least 65); see KID"
    )
    kid = generation["over_seeds"]["kid"]
    assert kid["mean"] == pytest.approx((first["kid"] + second["kid"]) / 2)
    assert kid["std"] == pytest.approx(abs(first["kid"] - second["kid"]) / np.sqrt(2))
    page = (evaluated / "report.md").read_text()
    assert (
        "± is the standard deviation over 2 seeds; recognition, deviation and nearest distance are of the first 40"
        in page
    )
    assert f"| KID | {kid['mean']:.5f} ± {kid['std']:.5f} | {real['kid']:.5f} |" in page


def test_eval_measures_translation_and_the_way_back(evaluated):
    methods = report(evaluated)["translation"]["methods"]
    assert methods.keys() == {"latent", "difference"}
    for method in methods.values():
        assert method["by_pair"].keys() == {f"{a} to {b}" for a in range(10) for b in range(10) if a != b}
        assert method["by_target"].keys() == {str(c) for c in range(10)}
        for target in method["by_target"].values():
            assert target["images"] == 9  # an image of each other class
            assert target["real"]["kid"] < target["kid"]
    # Both inverses are exact but for the tolerance; that swapping is none of eq. 20 shows only on a trained model.
    assert methods["latent"]["cycle_error_swapped"] < 0.05
    assert methods["difference"]["cycle_error_reversed"] < 0.05
    assert (evaluated / "translation_latent.png").exists()


def test_eval_measures_likelihood_and_warns(evaluated):
    figures = report(evaluated)["likelihood"]
    # An untrained drift is about 0: data are judged by N(0, I), which is known.
    pixels = np.stack([Digits("test")[i]["image"] for i in range(20)])
    x = 2 * (pixels + 0.5) / 17 - 1
    normal = np.mean(0.5 * x**2) / np.log(2) + 0.5 * np.log2(2 * np.pi) + np.log2(17) - 1
    assert figures["bits_per_dim"] == pytest.approx(normal, abs=0.1)
    assert figures["uniform"] == pytest.approx(np.log2(17))
    assert 0 < figures["standard_error"] < 0.1
    assert "dequantize=True" in figures["warning"]


def test_eval_sweeps_solvers_and_audits_against_scipy(evaluated):
    measured = report(evaluated)
    rows = measured["sweep"]["rows"]
    nfe = {(r["method"], r.get("steps")): r["nfe"] for r in rows if "steps" in r}
    assert nfe[("euler", 4)] == 4
    assert nfe[("heun", 2)] == 4
    assert nfe[("dopri5", 2)] == 13
    differences = {r.get("steps"): r["rms_difference"] for r in rows if r["method"] == "euler"}
    assert differences[4] < differences[2]
    audit = measured["audit"]
    assert audit["ours"]["nfe"] == pytest.approx(audit["scipy"]["nfe"], abs=12)
    assert audit["mean_absolute_difference"] < 1e-2
    errors = measured["truncation"]["root_mean_square"]
    assert all(len(v) == 3 for v in errors.values())
    assert all(v[0] == pytest.approx(0, abs=1e-5) for v in errors.values())  # both paths start at the latent
    for name in ("sweep.png", "truncation.png", "grid.png"):
        assert Image.open(evaluated / name).size[0] > 100


def test_eval_can_have_every_part_off(digits_run):
    parts = {f"eval__{part}": False for part in evaluate.PARTS}
    with pytest.raises(UserError, match="every part of the evaluation is off"):
        evaluate.run_command(experiment_of("digits.py", **parts), digits_run)


def test_evaluations_are_compared(evaluated, digits_run, capsys):
    changed = report(evaluated) | {"rounding": "floor"}
    other = digits_run / "other"
    other.mkdir()
    (other / "report.json").write_text(json.dumps(changed))
    compare.run_command(experiment_of("digits.py"), digits_run, f"{evaluated},{other}")
    printed = capsys.readouterr().out
    assert "not measured alike" in printed
    assert "| floor |" in printed
    assert (digits_run / "compare.md").read_text().strip() in printed
    with pytest.raises(UserError, match="fewer than two evaluations"):
        compare.run_command(experiment_of("digits.py"), digits_run, str(evaluated))
    with pytest.raises(UserError, match="the same evaluation twice"):
        compare.run_command(experiment_of("digits.py"), digits_run, f"{evaluated},{evaluated}/report.json")


def test_statistics_of_the_data_need_no_model(tmp_path, capsys):
    statistics.run_command(experiment_of("digits.py"), tmp_path)
    assert "Frechet distance on pixels, test split to train split" in capsys.readouterr().out
    measured = report(tmp_path / "statistics")
    train = np.stack([Digits("train")[i]["image"] for i in range(len(Digits("train")))]).reshape(-1, 64) / 8.0 - 1
    stored = np.load(tmp_path / "statistics" / "train.npz")
    np.testing.assert_allclose(stored["mu"], train.mean(0), atol=4e-3)  # pixels are rounded to 8 bits
    np.testing.assert_allclose(stored["sigma"], np.cov(train, rowvar=False), atol=4e-3)
    assert measured["train"]["images"] == len(train)
    assert 0 < measured["test_to_train"]["frechet_distance"] < 1
    # As the reference of an evaluation.
    path = str(tmp_path / "statistics" / "train.npz")
    data = Data(experiment_of("digits.py", eval__reference=path))
    assert data.reference.features is None
    figures = distances(Data(experiment_of("digits.py")).statistics("test").features, data.reference, data.extractor)
    assert figures["frechet_distance"] == pytest.approx(measured["test_to_train"]["frechet_distance"])
    assert "only a mean and a covariance" in figures["kid"]


def test_too_few_images_for_a_covariance_are_said(tfds_dir, tmp_path, capsys):
    experiment = experiment_of("cifar10.py", tfds_dir)
    statistics.run_command(experiment, tmp_path)
    printed = capsys.readouterr().out
    assert "images are too few for a covariance, so no train.npz" in printed
    assert "give at least 3073); see KID" in printed
    assert not (tmp_path / "statistics" / "train.npz").exists()


def test_evaluation_refuses_before_it_works(digits_run, tmp_path):
    for changes, match in (
        ({"eval__reference": str(tmp_path / "absent.npz")}, "reference is .*absent.npz, which is not a file"),
        ({"eval__extractor": "inception", "eval__inception_weights": "no.pth"}, "no.pth, which is not a file"),
    ):
        with pytest.raises(UserError, match=match):
            evaluate.run_command(experiment_of("digits.py", **changes), digits_run)


def test_samples_come_with_likelihoods(digits_run):
    experiment = experiment_of("digits.py", sample__likelihood=True)
    sample.run_command(experiment, digits_run)
    stored = np.load(digits_run / "sample" / "samples.npz")
    told = report(digits_run / "sample")["likelihood"]
    assert told["probe"] == "rademacher"
    assert "dequantize=True" in told["warning"]
    assert stored["log_likelihood"].shape == (10,)
    # Of an untrained drift: about that of the noise itself, -D/2 (ln 2 pi + 1).
    assert stored["log_likelihood"].mean() == pytest.approx(-32 * (np.log(2 * np.pi) + 1), rel=0.1)


def test_reports_state_what_is_needed_to_make_them_again(digits_run):
    experiment = experiment_of("digits.py")
    sample.run_command(experiment, digits_run)
    r = report(digits_run / "sample")
    assert (r["step"], r["parameters"], r["seed"], r["config_hash"]) == (4, "ema", 0, experiment.config_hash)
    other = experiment_of("digits.py", train__ema_decay=0.5)
    sample.run_command(other, digits_run)
    again = report(digits_run / "sample")
    assert (again["config_hash"], again["trained_config_hash"]) == (other.config_hash, experiment.config_hash)
    assert again["ema_decay"] == experiment.train.ema_decay
    assert r["solver"]["method"] == "dopri5"
    assert (r["solver"]["rtol"], r["solver"]["atol"]) == (1e-3, 1e-3)
    assert {"jax", "flax", "diffrax", "scoreflow_jax", "python"} <= r["versions"].keys()
    cost = r["cost"]
    assert cost["nfe_mean"] >= 9  # one step of Dopri5 and the first step's size
    assert cost["images_per_second"] == pytest.approx(10 / cost["seconds"])
    assert "round" in r["rounding"]


def test_sampling_is_the_same_for_any_batch_size_and_again(digits_run):
    """To the tolerance, since one step control serves a batch; noise i is the same exactly."""
    model = scoreflow_jax.load(digits_run)
    one, other = (scoreflow_jax.load(digits_run, batch_size=n) for n in (3, 7))
    key, labels = jax.random.key(5), np.arange(7)
    np.testing.assert_array_equal(model.generate(key, labels), model.generate(key, labels))
    np.testing.assert_allclose(one.generate(key, labels), other.generate(key, labels), atol=2e-2)


def test_translations_hold_sources_and_results(digits_run):
    experiment = experiment_of("digits.py", translate__method="difference", translate__target=3)
    translate.run_command(experiment, digits_run)
    out = digits_run / "translate"
    stored = np.load(out / "translations.npz")
    assert stored["source_images"].shape == stored["translated_images"].shape == (10, 8, 8, 1)
    assert set(stored["target_labels"]) == {3}
    assert 3 not in stored["source_labels"]
    test = {i.tobytes() for i in np.load(out / "translations.npz")["source_images"]}
    assert len(test) == 10
    r = report(out)
    assert r["method"] == "difference"
    assert r["methods"].keys() == {"latent", "difference"}
    for measured in r["methods"].values():
        assert 0 <= measured["recognized_as_target"] <= 1
        assert measured["distance_to_own_source"] > 0
    # Both legs of a fixed-step solve cost as much as the two networks of the difference.
    fixed = experiment_of("digits.py", solver__method="heun", solver__num_steps=5)
    translate.run_command(fixed, digits_run)
    assert {m["cost"]["nfe_mean"] for m in report(out)["methods"].values()} == {20.0}
    assert all(Image.open(out / name).size[0] > 100 for name in ("grid.png", "path.png"))


def test_translates_a_folder_of_pictures(digits_run, tmp_path):
    for i in range(3):
        Image.fromarray(np.full((20, 16), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    with pytest.raises(UserError, match="--config.translate.source=CLASS"):
        translate.run_command(experiment_of("digits.py", translate__images=str(tmp_path)), digits_run)
    changes = {"translate__images": str(tmp_path), "translate__source": 7}
    translate.run_command(experiment_of("digits.py", **changes), digits_run)
    stored = np.load(digits_run / "translate" / "translations.npz")
    assert stored["source_images"][:, 0, 0, 0].tolist() == [0, 40, 80]
    assert set(stored["source_labels"]) == {7}
    assert 7 not in stored["target_labels"]


@pytest.mark.parametrize("rule", ["square_root", "slerp", "linear"])
def test_interpolation_between_real_images_begins_and_ends_at_them(digits_run, rule):
    fine = {"solver__rtol": 1e-5, "solver__atol": 1e-5}
    changes = {"interpolate__between": "images", "interpolate__rule": rule, "interpolate__labels": (4,), **fine}
    interpolate.run_command(experiment_of("digits.py", **changes), digits_run)
    strips = np.load(digits_run / "interpolate" / "interpolations.npz")["images"]
    assert strips.shape == (2, 5, 8, 8, 1)
    test = experiment_of("digits.py").source("test")
    fours = {
        np.rint(test[i]["image"] * 255.0 / 16).astype(np.uint8).tobytes()
        for i in range(len(test))
        if test[i]["label"] == 4
    }
    ends = [strips[0, 0], strips[0, -1], strips[1, 0], strips[1, -1]]
    nearest = [min(np.abs(np.frombuffer(f, np.uint8).astype(int) - e.ravel()).max() for f in fours) for e in ends]
    assert max(nearest) <= 1
    assert len({e.tobytes() for e in ends}) == 4


def state_files(workdir, step):
    """Everything a checkpoint holds, by name, as numpy."""
    experiment = experiment_of("digits.py")
    ema, rest = train.split_state(state_shapes(experiment.initial_state, make_layout()))
    checkpoints = Checkpoints(workdir / "checkpoints", keep=3)
    with contextlib.closing(checkpoints):
        restored = checkpoints.restore_latest(ema=ema, train=rest)
    assert restored is not None
    assert restored.step == step
    key = jax.random.key_data(restored.train.pop("key"))
    return restored.ema, restored.train, key, restored.meta["batches"]


def test_resume_is_exact(tmp_path, capsys):
    """2 steps, stop, 2 steps: bit for bit the parameters, average, optimizer, key and batch count of 4 steps.

    With dropout and flips, and batches so large that the end of an epoch lies in the second half (1,433 images).
    """
    changes = {"model__dropout": 0.3, "data__flip": True, "train__batch_size": 480}
    train.run_command(experiment_of("digits.py", **changes), tmp_path / "whole")
    train.run_command(experiment_of("digits.py", train__num_steps=2, **changes), tmp_path / "parts")
    assert checkpoint_steps(tmp_path / "parts" / "checkpoints") == [2]
    train.run_command(experiment_of("digits.py", **changes), tmp_path / "parts")
    assert "resuming from step 2" in capsys.readouterr().out
    ours, theirs = state_files(tmp_path / "parts", 4), state_files(tmp_path / "whole", 4)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert ours[3] == 4
    losses = [
        [(r["step"], r["loss"]) for r in map(json.loads, (tmp_path / d / "metrics.jsonl").read_text().splitlines())]
        for d in ("parts", "whole")
    ]
    assert losses[0] == losses[1]


def test_a_finished_run_says_so_and_changes_nothing(digits_run, capsys):
    files = [digits_run / name for name in ("metrics.jsonl", "config.json", "parameters.txt")]
    before = [path.read_text() for path in files]
    train.run_command(experiment_of("digits.py", train__num_steps=3), digits_run)
    assert "already trained to step 4" in capsys.readouterr().out
    assert [path.read_text() for path in files] == before


def test_the_loop_compiles_nothing_after_the_first_steps(tmp_path, monkeypatch):
    """Counted from the second batch to the last, without the pictures in between."""
    events, at_batch = [], []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: events.append(name))
    real = train.to_global
    counted = lambda batch, layout: (at_batch.append(len(compiled(events))), real(batch, layout))[1]
    monkeypatch.setattr(train, "to_global", counted)
    changes = {"train__num_steps": 5, "train__sample_every": 0, "train__checkpoint_every": 5}
    train.run_command(experiment_of("digits.py", **changes), tmp_path)
    assert at_batch[0] > 0
    assert at_batch[-1] == at_batch[1]


def compiled(events):
    return [name for name in events if "backend_compile" in name]


def test_two_trainings_in_one_workdir_are_refused(digits_run):
    with workdirs.locked(digits_run), pytest.raises(UserError, match="another process trains in"):
        train.run_command(experiment_of("digits.py"), digits_run)


def test_a_config_that_cannot_be_trained_leaves_nothing_behind(tmp_path):
    for wrong in ({"model__base_channels": 132}, {"model__channel_multipliers": (1, "a")}):
        with pytest.raises(UserError):
            train.run_command(experiment_of("digits.py", **wrong), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_pictures_that_cannot_be_solved_do_not_stop_training(tmp_path, capsys):
    train.run_command(experiment_of("digits.py", solver__max_steps=1, solver__rtol=1e-6, solver__atol=1e-6), tmp_path)
    assert "no samples at step 4: the ODE solve" in capsys.readouterr().err
    assert checkpoint_steps(tmp_path / "checkpoints") == [2, 4]


def test_workdir_of_another_config_is_refused(digits_run):
    other = experiment_of("digits.py", optimizer__learning_rate=1.0)
    with pytest.raises(UserError, match="optimizer.learning_rate is 1.0, was 0.002"):
        train.run_command(other, digits_run)
    sample.run_command(other, digits_run)  # the network is the same
    with pytest.raises(UserError, match="model.base_channels is 16, was 8"):
        sample.run_command(experiment_of("digits.py", model__base_channels=16), digits_run)


def test_bad_data_leave_nothing_behind(tmp_path):
    with pytest.raises(UserError, match="larger than the data set"):
        train.run_command(experiment_of("digits.py", train__batch_size=4000), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_and_damaged_checkpoints_are_named(digits_run, tmp_path):
    (tmp_path / "config.json").write_text((digits_run / "config.json").read_text())
    with pytest.raises(UserError, match="train first"):
        sample.run_command(experiment_of("digits.py"), tmp_path)
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    with pytest.raises(UserError, match="no whole checkpoint"):
        sample.run_command(experiment_of("digits.py"), tmp_path)
    assert not (tmp_path / "sample").exists()


def test_a_damaged_checkpoint_is_one_line_in_a_process_of_its_own(digits_run, tmp_path):
    """Background threads of the storage library print tracebacks that no test inside this process would see."""
    shutil.copytree(digits_run, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:20])
    command = [
        sys.executable,
        "main.py",
        "--config=configs/digits.py:smoke",
        "--mode=sample",
        f"--workdir={tmp_path}/run",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1, result.stderr[:3000]
    assert "no whole checkpoint" in result.stderr


def test_a_save_that_fails_is_one_line(tmp_path):
    """A limit on file sizes stands in for a full disk."""
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)); "
    run = "import sys; sys.argv[0] = 'main.py'; from scoreflow_jax.command_line import main; main()"
    command = [
        sys.executable,
        "-c",
        limit + run,
        "--config=configs/digits.py:smoke",
        "--mode=train",
        f"--workdir={tmp_path}/run",
    ]
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert result.returncode == 2, result.stderr[-3000:]
    errors = [line for line in result.stderr.splitlines() if not line.startswith("no samples")]
    assert len(errors) == 1, result.stderr[:3000]
    assert "could not save a checkpoint" in errors[0]


def test_damaged_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is damaged"):
        scoreflow_jax.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="the config has no 'name'"):
        scoreflow_jax.load(tmp_path)
    with pytest.raises(UserError, match="holds no run"):
        scoreflow_jax.load(tmp_path / "config.json")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path):
    """An absurd learning rate: parameters overflow within a few steps."""
    wild = {"optimizer__learning_rate": 1e30, "optimizer__clip_norm": 0.0, "optimizer__warmup_steps": 3}
    experiment = experiment_of("digits.py", train__num_steps=20, train__checkpoint_every=1, **wild)
    with pytest.raises(UserError, match=r"at step \d+, expected finite numbers.*the checkpoint of step \d+ is kept"):
        train.run_command(experiment, tmp_path)
    model = scoreflow_jax.load(tmp_path)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(model.params))
    assert not (tmp_path / "train").exists()
