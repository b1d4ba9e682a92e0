"""Several processes over loopback: the same result as one, and stopping, killing and resuming them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from scoreflow_jax import processes
from scoreflow_jax.checkpoints import checkpoint_steps
from scoreflow_jax.command_line import EXIT_LOST_PEER
from scoreflow_jax.commands.train import run_command
from scoreflow_jax.errors import UserError
from tests.commands.test_train import state_files
from tests.conftest import COMPILED, ROOT
from tests.test_points import experiment_of, write_table

ENVIRONMENT = {**os.environ, "JAX_COMPILATION_CACHE_DIR": COMPILED}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


PATIENCE = 400
"""Seconds until a process is given up: on a busy machine starting one takes minutes."""


def ended(running):
    """Exit codes; processes that do not end are killed, lest they hold the machine."""
    try:
        return [process.wait(timeout=PATIENCE) for process in running]
    finally:
        for process in running:
            process.kill()


def start(arguments, log):
    with log.open("a") as file:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=ENVIRONMENT, stdout=file, stderr=subprocess.STDOUT
        )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Gradients and parameters: on pictures, of one process with one device and with four, which is the program that several
    processes run too; on points, whose network compiles in a second, of one process and of four."""
    folder = tmp_path_factory.mktemp("workers")
    table = write_table(folder / "points.csv", count=300)
    for count in (1, 4):
        port, log = free_port(), folder / f"{count}.log"
        peers = [[f"127.0.0.1:{port}", str(count), str(i)] if count > 1 else [] for i in range(count)]
        workers = [start(["-m", "tests.processes.worker", str(folder), str(table), *p], log) for p in peers]
        codes = ended(workers)
        assert codes == [0] * count, log.read_text()[-3000:]
    found = {}
    for name in ("pictures_1x1", "pictures_1x4", "points_1x1", "points_1x4", "points_4x1"):
        with np.load(folder / f"{name}.npz") as arrays:
            found[name] = dict(arrays)
        assert "x".join(map(str, [found[name]["shape"][0], found[name]["shape"][1] // found[name]["shape"][0]])) in name
    return found


def vector(arrays, what):
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays) if name.startswith(what + "[")])


@pytest.mark.parametrize(
    ("one", "several"), [("pictures_1x1", "pictures_1x4"), ("points_1x1", "points_1x4"), ("points_1x1", "points_4x1")]
)
def test_gradients_and_training_do_not_depend_on_devices_and_processes(results, one, several):
    """Gradients of the first step to 1e-5 relative, parameters after 20 steps to 1e-4, having moved by more than 1e-2."""
    one, several = results[one], results[several]
    gradient = vector(one, "gradient")
    assert np.linalg.norm(vector(several, "gradient") - gradient) < 1e-5 * np.linalg.norm(gradient)
    np.testing.assert_array_equal(vector(one, "start"), vector(several, "start"))
    np.testing.assert_allclose(vector(several, "end"), vector(one, "end"), rtol=1e-4, atol=1e-4)
    assert np.abs(vector(one, "end") - vector(one, "start")).max() > 1e-2


def test_each_process_holds_other_data_and_the_sum_over_them_matters(results):
    """What a version without the reduction would find in the first of four processes: the gradient of its own rows, which are
    those that it was given; it fails the test above."""
    four, one = results["points_4x1"], results["points_1x1"]
    assert len(four["own_labels"]) == 16
    np.testing.assert_array_equal(four["own_labels"], one["own_labels"][:16])
    gradient = vector(one, "gradient")
    np.testing.assert_allclose(vector(four, "alone"), vector(one, "alone"), rtol=1e-4, atol=1e-6)
    assert np.linalg.norm(vector(one, "alone") - gradient) > 0.1 * np.linalg.norm(gradient)


COMMAND = [
    "main.py", "--config=configs/table.py:smoke", "--mode=train", "--config.train.log_every=5",
    "--config.train.checkpoint_every=10", "--config.train.sample_every=0", "--config.train.tensorboard=False",
]  # fmt: skip


def train(folder, name, steps, *more):
    """Starts the two processes of a training run on a small table: its network compiles in a second."""
    port, table = free_port(), folder / "points.csv"
    if not table.exists():
        write_table(table, count=300)
    common = [
        *COMMAND,
        f"--workdir={folder / name}",
        f"--config.train.num_steps={steps}",
        f"--config.data.path={table}",
        *more,
    ]
    peers = lambda i: [f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={i}"]
    return [start([*common, *peers(i)], folder / f"log.{i}") for i in range(2)]


def wait_for_step(workdir, step, running):
    """Until the record of a step is written, or a process has ended."""
    file, until = workdir / "metrics.jsonl", time.monotonic() + PATIENCE
    while time.monotonic() < until and all(p.poll() is None for p in running):
        if file.exists() and any(record["step"] >= step for record in records(workdir)):
            return
        time.sleep(0.05)
    raise AssertionError(f"no record of step {step}")


def records(workdir):
    found = []
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # being written
            break
    return found


def comes_to_say(log, words):
    """Whether these words come to stand in a log: those about a process that was killed are written after its end, on a busy
    machine some seconds after, and where a process has said them itself its runtime may add noise of its own before it ends."""
    until = time.monotonic() + 30
    while words not in (found := log.read_text()) and time.monotonic() < until:
        time.sleep(0.2)
    return words in found


def losses(workdir):
    return [(r["step"], r["loss"], r["grad_norm"]) for r in records(workdir)]


def test_two_processes_train_are_stopped_killed_and_resume_bit_for_bit(tmp_path):
    """SIGTERM to one: both save the same step and leave. SIGKILL to the first, which holds the coordinator: the other ends by
    itself. After each the same command goes on, and the end is that of a run that nothing befell."""
    steps, parts = 150, tmp_path / "parts"
    running = train(tmp_path, "parts", steps)
    wait_for_step(parts, 5, running)
    running[1].send_signal(signal.SIGTERM)
    assert ended(running) == [128 + signal.SIGTERM] * 2
    stopped = checkpoint_steps(parts / "checkpoints")[-1]
    assert 5 <= stopped < steps

    running = train(tmp_path, "parts", steps)
    wait_for_step(parts, (stopped // 10 + 2) * 10, running)
    running[0].kill()
    code = running[1].wait(timeout=PATIENCE)
    assert code in (EXIT_LOST_PEER, -signal.SIGABRT), code
    assert running[0].wait() == -signal.SIGKILL
    for i in range(2):  # of the killed one, and of the other whatever its runtime printed before
        log = tmp_path / f"log.{i}"
        assert comes_to_say(log, "another process of this run was lost"), log.read_text()[-1000:]

    assert ended(train(tmp_path, "parts", steps)) == [0, 0]
    said = (tmp_path / "log.0").read_text()
    assert f"stopped by SIGTERM at step {stopped}" in said
    assert f"resuming from step {stopped}" in said
    assert said.count("resuming from step") == 2
    silent = (tmp_path / "log.1").read_text().splitlines()
    assert not [line for line in silent if line.startswith(("step ", "data: ", "resuming", "stopped"))]

    assert ended(train(tmp_path, "whole", steps)) == [0, 0]
    assert losses(parts) == losses(tmp_path / "whole")
    experiment = experiment_of(tmp_path / "points.csv", smoke=True)
    ours, theirs = (state_files(tmp_path / name, steps, experiment) for name in ("parts", "whole"))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_step_that_is_not_finite_is_kept_by_all_processes_and_ends_them(tmp_path):
    wild = ["--config.optimizer.learning_rate=1e30", "--config.optimizer.clip_norm=0.0"]
    running = train(tmp_path, "run", 40, *wild)
    assert ended(running) == [2, 2]
    said = (tmp_path / "log.0").read_text()
    assert "expected finite numbers" in said
    folders = [path.name for path in (tmp_path / "run").glob("failure-*")]
    assert len(folders) == 1, folders
    assert f"{folders[0]} holds the state before it" in said
    command = [sys.executable, "main.py", "--mode=diagnose", f"--workdir={tmp_path / 'run'}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=ENVIRONMENT)
    assert result.returncode == 0, result.stderr
    assert "repeated: loss" in result.stdout


def test_processes_with_different_configs_do_not_train(tmp_path):
    port, table = free_port(), write_table(tmp_path / "points.csv", count=300)
    common = [*COMMAND, f"--workdir={tmp_path / 'run'}", "--config.train.num_steps=5", f"--config.data.path={table}"]
    peers = lambda i: [f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={i}"]
    rates = ["--config.optimizer.learning_rate=1e-3", "--config.optimizer.learning_rate=1e-1"]
    running = [start([*common, *peers(i), rates[i]], tmp_path / f"log.{i}") for i in range(2)]
    assert ended(running) == [2, 2]
    assert "process 1 of 2 has another command than process 0" in (tmp_path / "log.0").read_text()
    assert not (tmp_path / "run").exists()


def test_an_error_of_one_process_ends_all_with_its_reason(tmp_path):
    """The second process sees another folder under the workdir's name, as on another host."""
    port, log, table = free_port(), tmp_path / "log", write_table(tmp_path / "points.csv", count=300)
    peers = lambda i: [f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={i}"]
    running = []
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        main = [str(ROOT / "main.py"), f"--config={ROOT}/configs/table.py:smoke", f"--config.data.path={table}"]
        main += ["--mode=train", "--workdir=run"]
        with log.with_suffix(f".{i}").open("w") as file:
            process = subprocess.Popen(
                [sys.executable, *main, *peers(i)],
                cwd=tmp_path / str(i),
                env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
                stdout=file,
                stderr=file,
            )
        running.append(process)
    assert ended(running) == [2, 2]
    assert "process 1 of 2: " in log.with_suffix(".0").read_text()
    assert "is not the same folder for all processes" in log.with_suffix(".0").read_text()


def test_two_processes_sample_what_one_does(tmp_path):
    """The same noise by its number: points to the solver's tolerance, one report, written once."""
    table = write_table(tmp_path / "points.csv", count=300)
    run_command(experiment_of(table, smoke=True, train__sample_every=0), tmp_path / "run")
    points = {}
    for count in (1, 2):
        workdir = tmp_path / str(count)
        shutil.copytree(tmp_path / "run", workdir)
        log, named = tmp_path / "log", [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
        common = ["main.py", "--config=configs/table.py:smoke", "--mode=sample", f"--workdir={workdir}"]
        common.append(f"--config.data.path={table}")
        peers = [[*named, f"--process_id={i}"] if count > 1 else [] for i in range(count)]
        running = [start([*common, *own], log) for own in peers]
        assert ended(running) == [0] * count, log.read_text()[-3000:]
        with np.load(workdir / "sample" / "samples.npz") as stored:
            points[count] = stored["points"]
        assert f"{count} process" in json.loads((workdir / "sample" / "report.json").read_text())["device"]
    np.testing.assert_allclose(points[1], points[2], rtol=1e-3, atol=1e-3)


def test_a_mode_that_is_not_divided_takes_no_other_processes(tmp_path):
    command = [
        sys.executable,
        "main.py",
        "--mode=compare",
        "--reports=a,b",
        "--coordinator=127.0.0.1:1",
        "--num_processes=2",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 2
    assert "--mode=compare runs in one process" in result.stderr


def test_a_lost_process_is_known_by_what_an_error_came_of(monkeypatch):
    """Orbax raises a TimeoutError of its own from the runtime's error."""
    try:
        try:
            raise RuntimeError("INTERNAL: Barrier failed because: Task 1 heartbeat timeout")
        except RuntimeError as error:
            raise TimeoutError("Timed out while waiting for async_write_complete") from error
    except TimeoutError as error:
        raised = error
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert processes.lost_peer(raised)
    assert not processes.lost_peer(TimeoutError("Timed out while waiting for async_write_complete"))
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    assert not processes.lost_peer(raised)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"coordinator": "127.0.0.1:1"}, "--num_processes is missing"),
        ({"coordinator": "here", "num_processes": "2", "process_id": "0"}, "expected HOST:PORT"),
        ({"coordinator": "h:1", "num_processes": "2", "process_id": "2"}, "the second below the first"),
        ({"coordinator": "h:1", "num_processes": "two", "process_id": "0"}, "expected numbers"),
    ],
)
def test_flags_that_name_no_process_are_refused(flags, said):
    with pytest.raises(UserError, match=said):
        processes.start(flags)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}, False),  # a shell inside an allocation, not a task of it
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "3", "SLURM_STEP_NODELIST": "a[1-2]"}, True),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "a1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
    ],
)
def test_schedulers_are_recognized_by_their_variables(environment, expected, monkeypatch):
    for name in ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes._scheduled() == expected
