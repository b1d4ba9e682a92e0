"""--mode=train: what it writes, and runs that must not start. Stopping and resuming: test_stop.py."""

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

import scoreflow_jax
from scoreflow_jax import randomness
from scoreflow_jax.checkpoints import Checkpoints, checkpoint_steps
from scoreflow_jax.commands import sample, train, translate
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.errors import UserError
from scoreflow_jax.parallel import make_layout
from scoreflow_jax.training import state_shapes
from tests.commands.runs import SHRUNK, experiment_of
from tests.conftest import ROOT

SMOKED = ("digits.py", "rectified_flow_256.py")
"""Configs that are trained here, one of each kind of network; test_data_modes.py trains on folders and between two data sets. The
others differ from them in numbers only, and tests/test_configs.py traces them at full size."""


@pytest.mark.parametrize("name", SMOKED)
def test_smoke_variant_really_trains_and_samples(name, tmp_path, request):
    if name == "digits.py":
        experiment, tmp_path = experiment_of(name), request.getfixturevalue("digits_run")
    else:
        folder = request.getfixturevalue("pictures_dir") / "images"
        experiment = experiment_of(name, folder, data__shape=(64, 64, 3))  # 256x256 takes a minute more
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


def state_files(workdir, step, experiment=None, **changes):
    """Everything a checkpoint holds, by name, as numpy."""
    experiment = experiment or experiment_of("digits.py", **changes)
    ema, rest = train.split_state(state_shapes(experiment.initial_state, make_layout()))
    checkpoints = Checkpoints(workdir / "checkpoints", keep=3)
    with contextlib.closing(checkpoints):
        restored = checkpoints.restore_latest(ema=ema, train=rest)
    assert restored is not None
    assert restored.step == step
    key = jax.random.key_data(restored.train.pop("key"))
    return restored.ema, restored.train, key, restored.meta["batches"]


def test_a_finished_run_says_so_and_changes_nothing(digits_run, capsys):
    files = [digits_run / name for name in ("metrics.jsonl", "config.json", "parameters.txt")]
    before = [path.read_text() for path in files]
    train.run_command(experiment_of("digits.py", train__num_steps=3), digits_run)
    assert "already trained to step 4" in capsys.readouterr().out
    assert [path.read_text() for path in files] == before


def test_a_run_of_an_earlier_version_goes_on_and_says_that_its_draws_change(digits_run, tmp_path, capsys):
    shutil.copytree(digits_run, tmp_path / "run")
    for meta in tmp_path.glob("run/checkpoints/*/meta/metadata"):
        told = json.loads(meta.read_text())
        assert told.pop("draws") == randomness.VERSION
        meta.write_text(json.dumps(told))
        (meta.parents[1] / "SHA256SUMS").unlink()
    train.run_command(experiment_of("digits.py", train__num_steps=5), tmp_path / "run")
    printed = capsys.readouterr().out
    assert "resuming from step 4" in printed
    assert f"by version 1 of the draws, those to come are by version {randomness.VERSION}" in printed
    newest = tmp_path / "run" / "checkpoints" / "5" / "meta" / "metadata"
    assert json.loads(newest.read_text())["draws"] == randomness.VERSION


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
    assert "no samples at step 4: the solve" in capsys.readouterr().err
    assert checkpoint_steps(tmp_path / "checkpoints") == [2, 4]


def test_bad_data_leave_nothing_behind(tmp_path):
    with pytest.raises(UserError, match="larger than the data set"):
        train.run_command(experiment_of("digits.py", train__batch_size=4000), tmp_path / "run")
    assert not (tmp_path / "run").exists()


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
        *(f"--config.model.{name}={value}" for name, value in SHRUNK.items()),
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


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path):
    """An absurd learning rate: parameters overflow within a few steps."""
    wild = {"optimizer__learning_rate": 1e30, "optimizer__clip_norm": 0.0, "optimizer__warmup_steps": 3}
    experiment = experiment_of("digits.py", train__num_steps=20, train__checkpoint_every=1, **wild)
    with pytest.raises(UserError, match=r"at step \d+, expected finite numbers.*the checkpoint of step \d+ is kept"):
        train.run_command(experiment, tmp_path)
    model = scoreflow_jax.load(tmp_path)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(model.params))
    assert not (tmp_path / "train").exists()
