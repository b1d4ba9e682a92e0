"""--mode=status: every number of the screen on made-up runs, and that it disturbs nothing."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from scoreflow_jax import sums
from scoreflow_jax.commands import status
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.errors import UserError
from scoreflow_jax.files import save_arrays
from scoreflow_jax.text_plots import ASCII, BRAILLE
from tests.commands.runs import experiment_of
from tests.conftest import ROOT

NOW = 1_700_000_000.0
MOST_LINES = 22


def made_up(workdir, records=(), *, num_steps=1000, age=0.0, tail=""):
    """A run of batch size 64 with these records, the last of them written `age` seconds before NOW."""
    workdir.mkdir(parents=True, exist_ok=True)
    config = {
        "name": "moons",
        "data": {"source": "tfds", "name": "cifar10", "shape": [32, 32, 3]},
        "model": {"name": "ncsnpp", "base_channels": 128, "dtype": "bfloat16"},
        "train": {"num_steps": num_steps, "batch_size": 64},
    }
    (workdir / "config.json").write_text(json.dumps(config))
    if records or tail:
        path = workdir / "metrics.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
        os.utime(path, (NOW - age, NOW - age))
    return workdir


def checkpoint(workdir, step, *, size, age, name=None):
    folder = workdir / "checkpoints" / (name or str(step))
    (folder / "ema" / "d").mkdir(parents=True)
    (folder / "ema" / "d" / "0").write_bytes(b"0" * (size - 1))
    (folder / "meta").write_bytes(b"0")
    os.utime(folder, (NOW - age, NOW - age))


def look(workdir, characters=BRAILLE):
    """The screen as a list of lines, within its limits."""
    lines = status.screen(workdir, NOW, characters)
    assert len(lines) <= MOST_LINES
    assert all(len(line) <= 80 for line in lines)
    return lines


def value(lines, label):
    """What the line with this label says."""
    (found,) = (line[13:] for line in lines if line[:13].strip() == label)
    return found


def records_of(count, every=10, **more):
    """The rate is 100 images/s, but for the first ten, which compile, and one outlier."""
    records = [{"step": every * i, "loss": 2.0 - i / count, "images_per_second": 100.0} for i in range(1, count + 1)]
    for record in records[:10]:
        record["images_per_second"] = 1.0
    records[-2]["images_per_second"] = 100_000.0
    return [{**record, **more} for record in records]


def test_every_number_of_a_run_that_trains(tmp_path):
    """500 of 1,000 steps of 64 images at 100 images/s: 320 s are left."""
    run = made_up(tmp_path / "run", records_of(50, data_wait_share=0.123), age=7)
    checkpoint(run, 200, size=3_000_000, age=3 * 86400 + 4 * 3600)
    checkpoint(run, 400, size=2_500_000, age=90)
    (run / "train").mkdir()
    for step in (200, 400):
        (run / "train" / f"samples_{step:07d}.png").touch()
    with workdirs.locked(run):
        lines = look(run)
    assert lines[0].startswith("moons (")
    assert lines[0].endswith("/run")
    assert value(lines, "config") == "tfds cifar10 32x32x3, ncsnpp 128, batch 64, bfloat16"
    assert value(lines, "progress") == f"[{'#' * 14}{'-' * 14}] 500 of 1,000, 50.0%, 32,000 images"
    assert value(lines, "state") == "training, 5 min left; last record 7 s ago"
    assert value(lines, "speed") == "100.0 images/s, data wait 12.3%"
    assert value(lines, "loss") == "1 now, 1 lowest at step 500"
    assert value(lines, "checkpoints") == "      400  2.5 MB, 2 min old"
    assert "                   200  3.0 MB, 3 d 4 h old" in lines
    assert value(lines, "preview").endswith("train/samples_0000400.png")


def test_time_left_and_rate_are_of_the_median_of_the_last_20(tmp_path):
    run = made_up(tmp_path / "run", records_of(50))
    progress = status.read_progress(json.loads((run / "config.json").read_text()), run, NOW)
    assert (progress.rate, progress.seconds_left) == (100.0, 320.0)
    assert status.recent([{"a": float(i)} for i in range(100)], "a") == 89.5  # of 80 to 99
    assert status.recent([{"a": 1.0}, {}, {"a": float("nan")}, {"a": 2.0}, {"a": None}], "a") == 1.5
    assert status.recent([{}], "a") is None


def test_numbers_that_only_some_records_have(tmp_path):
    run = made_up(tmp_path / "run", records_of(50, share_of_peak=0.4567, memory_gb=31.26, data_wait_share=0.0))
    assert value(look(run), "speed") == "100.0 images/s, data wait 0.0%, 45.7% of peak, 31.3 GB"


def test_states(tmp_path):
    """Finished, stopped with and without a checkpoint, not begun."""
    records = records_of(50)
    finished = made_up(tmp_path / "a", records, num_steps=500, age=3600)
    assert value(look(finished), "state") == "finished; last record 1 h 0 min ago"
    assert value(look(finished), "progress").startswith(f"[{'#' * 28}] 500 of 500, 100.0%")
    with workdirs.locked(finished):  # the last checkpoint and pictures are being written
        assert "its process is still there" in value(look(finished), "state")
    stopped = made_up(tmp_path / "b", records, age=120)
    (stopped / ".lock").touch()  # stays behind, and nobody holds it
    assert value(look(stopped), "state") == "stopped at step 500, 2 min ago: the same command starts anew"
    assert value(look(stopped), "checkpoints") == "none yet"
    checkpoint(stopped, 400, size=10, age=1)
    assert value(look(stopped), "state") == "stopped at step 500, 2 min ago: the same command goes on"
    new = made_up(tmp_path / "c")
    lines = look(new)
    assert value(lines, "state") == "not begun; no record yet"
    assert value(lines, "progress").endswith("] 0 of 1,000, 0.0%, 0 images")
    assert not {"speed", "loss", "damaged", "failures", "preview"} & {line[:13].strip() for line in lines}
    with workdirs.locked(new):
        assert value(look(new), "state") == "training; no record yet"
    imported = made_up(tmp_path / "d")
    checkpoint(imported, 700, size=10, age=1)
    assert value(look(imported), "state") == "stopped at step 700: the same command goes on"


def test_a_percentage_never_says_all_before_all(tmp_path):
    run = made_up(tmp_path / "run", [{"step": 799_999, "loss": 1.0}], num_steps=800_000)
    assert "99.9%" in value(look(run), "progress")
    assert "-]" in value(look(run), "progress")


def test_a_line_half_written_and_losses_that_are_no_numbers(tmp_path):
    records = records_of(50)
    records[20]["loss"] = float("inf")
    records[-1]["loss"] = float("nan")
    run = made_up(tmp_path / "run", records, tail='[1]\n{"step": "x"}\n\n{"step": 510, "lo')
    lines = look(run)
    assert "500 of 1,000" in value(lines, "progress")
    assert value(lines, "loss") == "nan now, 1.02 lowest at step 490"
    assert sum("│" in line for line in lines) == 8
    only_nan = made_up(tmp_path / "nan", [{"step": 1, "loss": float("nan")}])
    assert value(look(only_nan), "loss") == "nan now"
    without_loss = made_up(tmp_path / "none", [{"step": 1}])
    assert "loss" not in {line[:13].strip() for line in look(without_loss)}


def test_the_curve_stands_between_the_right_ends(tmp_path):
    """A loss that falls from 8 to 0.5 and so asks for a logarithm: at the left on top, at the right at the bottom."""
    losses = [8.0 * 2 ** (-i / 25) for i in range(101)]
    run = made_up(tmp_path / "run", [{"step": 100 + 50 * i, "loss": loss} for i, loss in enumerate(losses)])
    for characters in (BRAILLE, ASCII):
        lines = look(run, characters)
        start = next(i for i, line in enumerate(lines) if line.startswith("loss ")) + 1
        curve = lines[start : start + 10]
        assert curve[0].startswith(f"       8{characters.wall}")
        assert curve[7].startswith(f"     0.5{characters.wall}")
        assert curve[4].startswith("   (log)")
        assert curve[9].split() == ["100", "step", "5,100"]
        drawn = [line[9:] for line in curve[:8]]
        assert drawn[0][0] != " "
        assert len(drawn[0]) < 10
        assert len(drawn[7]) == 60
        assert drawn[7][:50].strip() == ""


def test_many_checkpoints_damage_and_failures_stay_on_one_screen(tmp_path):
    run = made_up(tmp_path / ("long" * 20), records_of(50))
    for step in range(1, 60):
        checkpoint(run, step, size=1_000_000, age=60 - step)
    for name in ("damaged-9", "damaged-10", "61.orbax-checkpoint-tmp-3"):
        checkpoint(run, 0, size=5, age=1, name=name)
    for name in ("failure-120", "failure-33"):
        (run / name).mkdir()
    (run / "train").mkdir()
    (run / "train" / "samples_0000400.png").touch()
    lines = look(run)
    assert len(lines) == MOST_LINES
    assert value(lines, "checkpoints").split() == ["59", "1.0", "MB,", "1", "s", "old"]
    assert "             and 57 older, from 1" in lines
    assert value(lines, "damaged") == "damaged-9, damaged-10"
    assert value(lines, "failures") == "failure-33, failure-120"
    assert value(lines, "preview") == "train/samples_0000400.png"


def test_where_the_lock_cannot_be_seen_the_last_record_decides(tmp_path, monkeypatch):
    """Records every 10 steps of 64 images at 1 image/s are 640 s apart: 3,000 s of silence are not the end."""
    records = [{**record, "images_per_second": 1.0} for record in records_of(50)]
    monkeypatch.setattr(status, "is_locked", lambda workdir: None)
    assert value(look(made_up(tmp_path / "run", records, age=3000)), "state").startswith("training, 8 h 53 min left")
    assert value(look(made_up(tmp_path / "run", records, age=3300)), "state").startswith("stopped at step 500, 55 min")
    assert value(look(made_up(tmp_path / "run", records_of(50), age=59)), "state").startswith("training")


def test_looking_leaves_a_training_alone(tmp_path):
    """The lock of one who trains stays, and one who starts to train while another looks is not refused."""
    run = made_up(tmp_path / "run")
    assert status.is_locked(run) is False
    assert not (run / ".lock").exists()
    with workdirs.locked(run):
        assert status.is_locked(run) is True
        with pytest.raises(UserError, match="another process trains in"), workdirs.locked(run):
            pass
    assert status.is_locked(run) is False
    with (run / ".lock").open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.05, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        with workdirs.locked(run):
            assert status.is_locked(run) is True


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "holds no run"),
        ('{"name": ', "is damaged"),
        ('{"name": "x"}', "is not the config of a run"),
        ('{"name": "x", "train": 3}', "is not the config of a run"),
    ],
)
def test_no_run_there(tmp_path, content, match):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=match):
        look(tmp_path)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3540.0, "59 min"),
        (3599.0, "1 h 0 min"),
        (23.6 * 3600, "23 h 36 min"),
        (86399.0, "1 d 0 h"),
        (360_000.0, "4 d 4 h"),
    ],
)
def test_durations(seconds, text):
    assert status.duration(seconds) == text


def test_a_real_run(digits_run, capsys):
    status.run_command(digits_run)
    lines = capsys.readouterr().out.splitlines()
    experiment = experiment_of("digits.py")
    records = [json.loads(line) for line in (digits_run / "metrics.jsonl").read_text().splitlines()]
    assert lines[0].startswith(f"digits_smoke ({experiment.config_hash}) in ")
    assert value(lines, "config") == "digits 8x8x1, ncsnpp 8, batch 8, float32"
    assert value(lines, "progress").endswith("] 4 of 4, 100.0%, 32 images")
    assert value(lines, "state").startswith("finished; last record ")
    assert value(lines, "loss").startswith(f"{records[-1]['loss']:.4g} now, ")
    assert value(lines, "checkpoints").split()[0] == "4"
    assert value(lines, "preview").endswith("train/samples_0000004.png")


def command(*arguments, **environment):
    """The command line in a process of its own, which ends by saying which devices it has touched."""
    code = (
        "import sys\n"
        "from scoreflow_jax.command_line import main\n"
        "try: main()\n"
        "finally: print(sorted(sys.modules['jax._src.xla_bridge']._backends), file=sys.stderr)"
    )
    inherited = {name: text for name, text in os.environ.items() if name not in ("LANG", "LC_ALL", "LC_CTYPE")}
    run = [sys.executable, "-c", code, "--mode=status", *arguments]
    return subprocess.run(
        run, capture_output=True, text=True, check=False, cwd=ROOT, encoding="utf-8", env={**inherited, **environment}
    )


def test_on_a_terminal_with_and_without_braille_and_without_devices(tmp_path):
    """By --workdir alone, whose config is not the default one, and whose data are not here."""
    run = made_up(tmp_path / "run", records_of(50), age=NOW - time.time())
    plain = command(f"--workdir={run}", LANG="C")
    assert plain.returncode == 0, plain.stderr
    assert plain.stderr.splitlines() == ["[]"]
    assert plain.stdout.isascii()
    assert len(plain.stdout.splitlines()) < 24
    assert "'." in plain.stdout
    assert "    1.98|" in plain.stdout
    pretty = command(f"--workdir={run}", LANG="C.UTF-8")
    assert pretty.stderr.splitlines() == ["[]"]
    assert "    1.98│" in pretty.stdout
    assert pretty.stdout.startswith("moons (")


def test_no_run_is_one_line_and_exit_code_2(tmp_path):
    result = command(f"--workdir={tmp_path}/none")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines()[0] == (
        f"error: {tmp_path}/none holds no run (no config.json): train first, or give the workdir of a run"
    )


def test_verify_reads_everything_and_names_what_is_damaged(digits_run, tmp_path, capsys):
    """A bit turned over in each kind of file of a run."""
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    save_arrays(run / "eval" / "4" / "generation" / "0.npz", {"features": np.ones((2, 3), np.float32)})
    sums.write_json(run / "eval" / "4" / "report.json", {"mode": "eval", "value": 1.5})
    result = command(f"--workdir={run}", "--verify")
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[-1] == "[]"
    assert re.search("whole        JSON: [0-9]+, arrays: [0-9]+, checkpoints: 2, records: 1\n", result.stdout)
    capsys.readouterr()
    for path, what in (
        (next((run / "checkpoints" / "4" / "train" / "d").iterdir()), "checkpoints/4: train/d/"),
        (run / "checkpoints" / "2" / "meta" / "metadata", "checkpoints/2: meta/metadata has another sum"),
        (run / "eval" / "4" / "generation" / "0.npz", "eval/4/generation/0.npz: "),
        (run / "eval" / "4" / "report.json", "eval/4/report.json: "),
        (run / "data.json", "data.json: "),
        (run / "metrics.jsonl", "metrics.jsonl: 1 lines are damaged, the first is line 1"),
    ):
        whole = path.read_bytes()
        content = bytearray(whole)
        content[1 if path.suffix == ".jsonl" else len(whole) // 2] ^= (
            1  # a last digit may be beyond a number's precision
        )
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"^1 of [0-9]+ are damaged: {what}"):
            status.run_command(run, verify="yes")
        path.write_bytes(whole)
    shutil.rmtree(run / "checkpoints" / "2" / "meta")
    (run / "checkpoints" / "4" / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="checkpoints/2: meta is missing"):
        status.run_command(run, verify="yes")
    shutil.rmtree(run / "checkpoints" / "2")
    (run / "mine.json").write_text("[1]")
    (run / "data.json").write_text(json.dumps(sums.read_json(run / "data.json")))
    status.run_command(run, verify="yes")
    told = capsys.readouterr().out
    assert re.search(
        r"without sums, of an earlier version: (checkpoints/4, data.json|data.json, checkpoints/4)\n", told
    )
    assert "checkpoints:" not in told
    (run / "checkpoints" / "6").mkdir()
    (run / "reflow").mkdir()
    (run / "reflow" / "pairs.json").write_text('{"num_pairs": 3, "shard_size": 2}')
    with pytest.raises(UserError, match="^2 of .*checkpoints/6: ema is missing.*reflow: x0_000000.npy is missing"):
        status.run_command(run, verify="yes")
