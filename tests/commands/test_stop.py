"""--mode=train told to stop, or in trouble: what is saved and said, and that the same command goes on as if nothing had been.

On a table of points, whose network compiles in a second; that dropout, mirroring and images are resumed too shows `pictures`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax.checkpoints import checkpoint_steps
from scoreflow_jax.commands import failures, train
from scoreflow_jax.data.pipeline import train_batches
from scoreflow_jax.errors import UserError
from scoreflow_jax.parallel import make_layout
from scoreflow_jax.processes import Stopped
from scoreflow_jax.training import create_state, loop
from tests.commands.runs import experiment_of
from tests.commands.test_train import state_files
from tests.conftest import COMPILED, ROOT
from tests.test_points import experiment_of as experiment_of_points
from tests.test_points import write_table

OPTIONS = {
    "train__num_steps": 12, "train__log_every": 5, "train__checkpoint_every": 6, "train__sample_every": 0,
    "train__tensorboard": False, "train__batch_size": 240,  # of 1,433 images or 1,403 points: an epoch ends in the sixth step
}  # fmt: skip
OF_PICTURES = {**OPTIONS, "model__dropout": 0.1, "data__flip": True}
SAME = {"model__label_dropout": 0.1}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("table") / "points.csv", count=2000)


@pytest.fixture(scope="module")
def points(table):
    """The smoke run of the table, with changes like train__num_steps=2."""
    return lambda **changes: experiment_of_points(table, smoke=True, **{**SAME, **changes})


def pictures(**changes):
    return experiment_of("digits.py", **changes)


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir):
    return [(r["step"], r["loss"], r["grad_norm"], r["param_norm"]) for r in records(workdir)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, points):
    """A run that nothing befell."""
    workdir = tmp_path_factory.mktemp("whole")
    train.run_command(points(**OPTIONS), workdir)
    return workdir


def at_batch(monkeypatch, number, what):
    """Calls `what` when batch `number` goes to the devices; the loop is two batches behind."""
    real, seen = train.to_global, []

    def counted(batch, layout):
        seen.append(None)
        if len(seen) == number:
            what()
        return real(batch, layout)

    monkeypatch.setattr(train, "to_global", counted)


@pytest.mark.parametrize(("kind", "signum", "number"), [("points", signal.SIGTERM, 5), ("pictures", signal.SIGINT, 10)])
def test_a_signal_saves_once_and_the_run_goes_on_bit_for_bit(
    kind, signum, number, request, points, tmp_path, monkeypatch, capsys
):
    """Between two logs: the record that spans the stop is that of the run without one, and no step stands there twice."""
    if kind == "points":
        experiment, whole = points(**OPTIONS), request.getfixturevalue("whole")
    else:
        experiment, whole = pictures(**OF_PICTURES), tmp_path / "whole"
        train.run_command(experiment, whole)
    run = tmp_path / "run"
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        at_batch(patch, number, lambda: os.kill(os.getpid(), signum))
        with pytest.raises(Stopped) as stopped:
            train.run_command(experiment, run)
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before
    step = stopped.value.step
    assert step == number - 2
    assert stopped.value.signum == signum
    assert checkpoint_steps(run / "checkpoints") == [s for s in (6,) if s < step] + [step]
    assert f"{signal.Signals(signum).name}: saving after the step under way" in capsys.readouterr().err
    train.run_command(experiment, run)
    assert f"resuming from step {step}\n" in capsys.readouterr().out
    assert losses(run) == losses(whole)
    ours, theirs = (state_files(folder, 12, experiment) for folder in (run, whole))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_low_parts_of_the_average_are_resumed_and_earlier_checkpoints_lack_them(points, tmp_path, monkeypatch, capsys):
    """Bit for bit; a run that an earlier version began goes on with low parts of 0."""
    options = {**OPTIONS, "train__ema_decay": 0.999999}
    half, full = points(**{**options, "train__num_steps": 6}), points(**options)
    for run in ("whole", "resumed", "earlier"):
        with monkeypatch.context() as patch:
            if run == "earlier":
                patch.setattr("scoreflow_jax.experiment.is_compensated", lambda decay: False)
            if run != "whole":
                train.run_command(half, tmp_path / run)
        train.run_command(full, tmp_path / run)
        assert ("resuming from step 6\n" in capsys.readouterr().out) == (run != "whole")
    whole, resumed, earlier = (state_files(tmp_path / run, 12, full) for run in ("whole", "resumed", "earlier"))
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    sums = []
    for ema, rest, *_ in (whole, earlier):
        assert any(np.any(leaf) for leaf in jax.tree.leaves(rest["ema_low"]))
        sums.append(jax.tree.map(lambda a, b: np.float64(a) + np.float64(b), ema, rest["ema_low"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *sums)
    jax.tree.map(np.testing.assert_array_equal, earlier[1]["params"], whole[1]["params"])


def test_pictures_do_not_delay_a_stop(points, tmp_path, monkeypatch):
    """The signal comes while they are drawn: they are left out, and the step is saved."""
    drawn = []

    def slow(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        drawn.append(True)

    monkeypatch.setattr(train.Model, "generate", slow)
    with pytest.raises(Stopped) as stopped:
        train.run_command(points(**{**OPTIONS, "train__sample_every": 4}), tmp_path)
    assert not drawn
    assert stopped.value.step == 5  # the next step is done before the loop asks
    assert checkpoint_steps(tmp_path / "checkpoints") == [5]


@pytest.mark.parametrize("when", ["fetch", "report"])
def test_a_signal_between_the_step_and_the_pictures_is_heard(points, tmp_path, monkeypatch, when):
    """While the loop waits for the device or writes the record: too late to be asked for before the pictures."""
    owner = {"fetch": loop._Pending, "report": loop._Meter}[when]
    real = getattr(owner, when)

    def hit(self, *arguments):
        result = real(self, *arguments)
        if not hit.done:
            hit.done = True
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    hit.done = False
    monkeypatch.setattr(owner, when, hit)
    monkeypatch.setattr(train.Model, "generate", lambda *_, **__: pytest.fail("pictures of a run that is to stop"))
    with pytest.raises(Stopped) as stopped:
        train.run_command(points(**{**OPTIONS, "train__sample_every": 3}), tmp_path)
    assert stopped.value.step == 4
    assert checkpoint_steps(tmp_path / "checkpoints") == [4]


def test_ctrl_c_in_a_terminal_reaches_workers_too_and_the_run_still_saves(table, tmp_path):
    """A terminal signals the whole group of processes."""
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command(table, tmp_path / "run", "--config.train.num_workers=1"), cwd=ROOT, env=ENVIRONMENT, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
    until = time.monotonic() + 200
    while "step 20/" not in log.read_text() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130, log.read_text()[-2000:]
    assert checkpoint_steps(tmp_path / "run" / "checkpoints")[-1] >= 20


def command(table, workdir, *more):
    """Of a training that ends only when it is stopped."""
    return [
        sys.executable, "main.py", "--config=configs/table.py:smoke", "--mode=train", f"--workdir={workdir}",
        f"--config.data.path={table}", "--config.train.num_steps=100000000", "--config.train.checkpoint_every=100000000",
        "--config.train.log_every=10", "--config.train.sample_every=0", "--config.train.tensorboard=False", *more,
    ]  # fmt: skip


ENVIRONMENT = {**os.environ, "JAX_COMPILATION_CACHE_DIR": COMPILED}


def test_exit_code_of_a_process_that_is_stopped(table, tmp_path):
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command(table, tmp_path / "run"), cwd=ROOT, env=ENVIRONMENT, stdout=file, stderr=file
        )
    until = time.monotonic() + 200
    while "step 20/" not in log.read_text() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143, log.read_text()[-2000:]
    step = checkpoint_steps(tmp_path / "run" / "checkpoints")[-1]
    assert step >= 20
    assert f"stopped by SIGTERM at step {step}; the checkpoint is whole" in log.read_text()


def test_a_reader_that_goes_ends_no_training(table, tmp_path):
    """As of `--mode=train | head -1`: what nobody reads is dropped, and the run is finished."""
    options = command(table, tmp_path / "run", "--config.train.num_steps=40", "--config.train.log_every=1")
    process = subprocess.Popen(options, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=100) == 0
    assert checkpoint_steps(tmp_path / "run" / "checkpoints")[-1] == 40
    assert records(tmp_path / "run")[-1]["step"] == 40


def test_a_terminal_that_is_closed_saves_unless_it_may_go(points, tmp_path, monkeypatch):
    """SIGHUP; under nohup, which has it ignored, nothing happens."""
    with monkeypatch.context() as patch:
        at_batch(patch, 5, lambda: os.kill(os.getpid(), signal.SIGHUP))
        with pytest.raises(Stopped) as stopped:
            train.run_command(points(**OPTIONS), tmp_path / "run")
    assert (stopped.value.signum, checkpoint_steps(tmp_path / "run" / "checkpoints")) == (signal.SIGHUP, [3])
    # A shell and the kernel both send one; systemd sends it after SIGTERM, and may send SIGTERM after it.
    for number, signals in enumerate(((1, 1, 1), (15, 1), (1, 15))):
        with monkeypatch.context() as patch:
            at_batch(patch, 5, lambda signals=signals: [os.kill(os.getpid(), signum) for signum in signals])
            with pytest.raises(Stopped):
                train.run_command(points(**OPTIONS), tmp_path / f"several{number}")
        assert checkpoint_steps(tmp_path / f"several{number}" / "checkpoints") == [3]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_batch(monkeypatch, 5, lambda: os.kill(os.getpid(), signal.SIGHUP))
        train.run_command(points(**OPTIONS), tmp_path / "nohup")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert checkpoint_steps(tmp_path / "nohup" / "checkpoints")[-1] == 12


@pytest.mark.parametrize("how", ["moved", "deleted"])
def test_a_workdir_that_is_taken_away_is_said_and_not_made_anew(points, tmp_path, monkeypatch, how):
    run = tmp_path / "run"

    def take() -> None:
        while checkpoint_steps(run / "checkpoints") != [6]:
            time.sleep(0.01)
        run.rename(tmp_path / "elsewhere")
        if how == "deleted":
            shutil.rmtree(tmp_path / "elsewhere")

    with monkeypatch.context() as patch:
        at_batch(patch, 10, take)  # after the first checkpoint
        with pytest.raises(
            UserError, match="checkpoints was moved or deleted while training went on: nothing that was saved"
        ):
            train.run_command(points(**OPTIONS), run)
    assert not (run / "checkpoints").exists()
    if how == "moved":
        assert checkpoint_steps(tmp_path / "elsewhere" / "checkpoints") == [6]
        train.run_command(points(**OPTIONS), tmp_path / "elsewhere")
        assert checkpoint_steps(tmp_path / "elsewhere" / "checkpoints")[-1] == 12


def test_a_full_disk_under_the_records_is_one_line(table, tmp_path):
    """A limit on file sizes stands in for it; no checkpoint comes first."""
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
    run = "import sys; sys.argv[0] = 'main.py'; from scoreflow_jax.command_line import main; main()"
    _, _, *rest = command(table, tmp_path / "run", "--config.train.log_every=1")
    environment = {**ENVIRONMENT, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    result = subprocess.run(
        [sys.executable, "-c", limit + run, *rest],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )
    assert result.returncode == 2, result.stderr[-3000:]
    assert len(result.stderr.splitlines()) == 1, result.stderr[-3000:]
    assert "metrics.jsonl" in result.stderr
    assert "make room" in result.stderr


def test_a_changed_config_is_refused_before_anything_is_touched(points, whole):
    before = sorted((p, p.stat().st_mtime_ns) for p in whole.rglob("*"))
    with pytest.raises(UserError, match=r"optimizer.learning_rate is 0.5, was .*same config, or another --workdir"):
        train.run_command(points(**OPTIONS, optimizer__learning_rate=0.5), whole)
    assert sorted((p, p.stat().st_mtime_ns) for p in whole.rglob("*")) == before


def test_another_number_of_devices_is_said_and_the_run_goes_on(points, whole, tmp_path, capsys, monkeypatch):
    shutil.copytree(whole, tmp_path / "run")
    monkeypatch.setattr(train, "make_layout", lambda fsdp: make_layout(jax.devices()[:2], fsdp=fsdp))
    longer = {**OPTIONS, "train__num_steps": 14}
    train.run_command(points(**longer), tmp_path / "run")
    assert "resuming from step 12, saved on 1 x cpu, on 2 x cpu" in capsys.readouterr().out
    assert records(tmp_path / "run")[-1]["step"] == 14


def test_the_newest_checkpoint_damaged_goes_on_from_the_one_before(points, whole, tmp_path, capsys):
    """And ends where the run without damage ended."""
    shutil.copytree(whole, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints" / "12").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:20])
    train.run_command(points(**OPTIONS), tmp_path / "run")
    printed = capsys.readouterr()
    assert "resuming from step 6" in printed.out
    assert "damaged" in printed.err
    assert losses(tmp_path / "run") == losses(whole)
    ours, theirs = (state_files(folder, 12, points(**OPTIONS)) for folder in (tmp_path / "run", whole))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


WILD = {
    **OPTIONS, "train__log_every": 4, "train__checkpoint_every": 2, "optimizer__learning_rate": 1e30,
    "optimizer__clip_norm": 0.0, "optimizer__warmup_steps": 10_000,
}  # fmt: skip


def test_a_step_that_is_not_finite_is_kept_and_can_be_repeated(points, tmp_path, capsys):
    """Its indices are those of the stream, its examples theirs, its state the one before; the last checkpoint stays whole."""
    experiment = points(**WILD)
    with pytest.raises(UserError, match=r"at step (\d+), expected finite numbers") as caught:
        train.run_command(experiment, tmp_path)
    step = int(str(caught.value).split("at step ")[1].split(",")[0])
    folder = tmp_path / f"failure-{step}"
    assert f"{folder} holds the state before it" in str(caught.value)
    about = json.loads((folder / "report.json").read_text())
    stream = train_batches(
        experiment.split("train"), experiment.train.batch_size, seed=experiment.seed, consumed=step - 1
    )
    expected = next(stream)
    stream.close()
    with np.load(folder / "examples.npz") as kept:
        np.testing.assert_array_equal(kept["image"], expected["image"])
        np.testing.assert_array_equal(kept["label"], expected["label"])
    source = experiment.split("train")
    np.testing.assert_array_equal(source.read(about["indices"]["image"])["image"], expected["image"])
    saved = checkpoint_steps(tmp_path / "checkpoints")
    assert all(s < step for s in saved)
    capsys.readouterr()
    failures.run_command(tmp_path)
    printed = capsys.readouterr().out
    assert f"step {step} repeated: loss" in printed
    found = json.loads((folder / "diagnosis.json").read_text())
    if np.isfinite(float(about["metrics"]["loss"])):
        assert float(found["loss"]) == pytest.approx(float(about["metrics"]["loss"]), rel=1e-4)
    sizes = {what: max(float(v) for v in found[f"largest_{what}"].values()) for what in ("parameter", "update")}
    assert np.isfinite(sizes["parameter"])
    assert not sizes["update"] < 1e18  # whose squares overflow


def test_diagnosis_names_the_examples_and_the_array(points, tmp_path, capsys):
    """One class's embedding is not a number: so are the losses of just that class's examples."""
    experiment = points(train__batch_size=40, model__label_dropout=0.0)
    state = create_state(experiment.initial_state, make_layout())
    state.params["class_embedding"]["embedding"] = state.params["class_embedding"]["embedding"].at[1].set(jnp.nan)
    (tmp_path / "config.json").write_text("{}")
    sources = train.open_sources(experiment)
    said = failures.dump(experiment, tmp_path, sources, 7, state.replace(step=jnp.int32(7)), {"loss": float("nan")}, 7)
    assert "--mode=diagnose" in said
    failures.run_command(tmp_path)
    found = json.loads((tmp_path / "failure-8" / "diagnosis.json").read_text())
    with np.load(tmp_path / "failure-8" / "examples.npz") as kept:
        second = np.flatnonzero(kept["label"] == 1).tolist()
    assert second
    assert [example["row"] for example in found["examples_not_finite"]] == second
    printed = capsys.readouterr().out
    assert f"loss not finite in {len(second)} of 40 examples: rows {second[0]}" in printed
    assert "parameters not finite in 1 of" in printed
    assert ": class_embedding/embedding" in printed


def test_diagnosis_computes_the_step_as_training_did(points, tmp_path):
    """With microbatches, whose parts have dropout of their own, and a batch that the devices do not divide."""
    options = {"model__label_dropout": 0.5, "train__batch_size": 6, "train__microbatches": 3}
    experiment, layout = points(**options), make_layout(jax.devices()[:2])
    (tmp_path / "config.json").write_text("{}")
    state = create_state(experiment.initial_state, layout)
    # An untrained drift is 0, whatever is dropped.
    state = state.replace(params=jax.tree.map(lambda leaf: leaf + 0.1, state.params))
    failures.dump(experiment, tmp_path, train.open_sources(experiment), 0, state, {"loss": 1.0}, 0)
    failures.run_command(tmp_path)
    found = json.loads((tmp_path / "failure-1" / "diagnosis.json").read_text())
    batch = next(train.global_batches(experiment, train.open_sources(experiment), layout, 0))
    _, metrics = jax.jit(experiment.train_step())(state, batch)
    for name, value in metrics.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-4)


def test_diagnose_without_a_failure_is_one_line(whole):
    with pytest.raises(UserError, match="holds no failure"):
        failures.run_command(whole)


def test_the_state_kept_of_a_failed_step_is_that_before_it(points, tmp_path, whole):
    """Training the good steps alone gives the same parameters."""
    experiment = points(**WILD)
    with pytest.raises(UserError) as caught:
        train.run_command(experiment, tmp_path / "run")
    step = int(str(caught.value).split("at step ")[1].split(",")[0])
    if step == 1:
        pytest.skip("the very first step failed")
    shorter = points(**{**WILD, "train__num_steps": step - 1})
    train.run_command(shorter, tmp_path / "short")
    ours = state_files(tmp_path / "short", step - 1, shorter)
    restored = failures._restore(tmp_path / "run" / f"failure-{step}")[1]
    jax.tree.map(np.testing.assert_array_equal, ours[0], jax.device_get(restored.ema_params))
    jax.tree.map(np.testing.assert_array_equal, ours[1]["params"], jax.device_get(restored.params))
