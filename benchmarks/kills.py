"""Kills a training run at random moments, starts it again each time, and compares it with a run that nothing befell.

    python -m benchmarks.kills [--kills 50] [--seed 0] [--config configs/digits.py:smoke]

Two kills in five are SIGKILL at a random moment of the first seconds (imports, compilation, restoring, steps), two in five
SIGKILL a few milliseconds after a checkpoint begins to be written, one in five SIGTERM during training. Every step's loss,
gradient norm and parameter norm is recorded, so each resume is compared step by step; in the end the parameters, their average
and the optimizer are compared bit for bit. Prints a JSON line for each kill and one for all.
"""

import argparse
import contextlib
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np

from scoreflow_jax.checkpoints import Checkpoints, checkpoint_steps
from scoreflow_jax.command_line import load_config
from scoreflow_jax.commands.train import split_state
from scoreflow_jax.experiment import build, resolve
from scoreflow_jax.parallel import make_layout
from scoreflow_jax.training import state_shapes

_OPTIONS = (
    "--config.train.log_every=1", "--config.train.checkpoint_every=20", "--config.train.sample_every=0",
    "--config.train.tensorboard=False", "--config.train.keep_checkpoints=3", "--config.model.dropout=0.1",
)  # fmt: skip
_FIRST_SECONDS = 14.0  # of a start, in which the unannounced kills fall
_SAVE_MS = 120.0  # after the beginning of a save


def main() -> None:
    """Kills, compares and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", default="configs/digits.py:smoke")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        run, whole = root / "killed", root / "whole"
        found = [_kill(args.config, run, rng, number) for number in range(args.kills)]
        steps = (checkpoint_steps(run / "checkpoints") or [0])[-1] + 5
        for workdir in (run, whole):
            subprocess.run(_command(args.config, workdir, steps), check=True, stdout=subprocess.DEVNULL)
        same = _losses(run) == _losses(whole)
        bits = _same_state(args.config, run, whole)
        resumes = [f for f in found if f["resumed_from"] is not None]
        print(
            json.dumps(
                {
                    "kills": len(found),
                    "moments": {m: sum(f["moment"] == m for f in found) for m in sorted({f["moment"] for f in found})},
                    "unfinished_saves_found": sum(f["unfinished_save"] for f in found),
                    "steps": steps,
                    "resumes_from_a_checkpoint": len(resumes),
                    "damaged_checkpoints": len(list((run / "checkpoints").glob("damaged-*"))),
                    "records_equal": same,
                    "state_bit_equal": bits,
                    "each_step_once": [r[0] for r in _losses(run)] == list(range(1, steps + 1)),
                }
            )
        )
        sys.exit(0 if same and bits else 1)


def _command(config: str, workdir: pathlib.Path, steps: int) -> list[str]:
    return [
        sys.executable, "main.py", f"--config={config}", "--mode=train", f"--workdir={workdir}",
        f"--config.train.num_steps={steps}", *_OPTIONS,
    ]  # fmt: skip


def _kill(config: str, workdir: pathlib.Path, rng: random.Random, number: int) -> dict[str, Any]:
    """Starts the run, ends it somehow, and looks at what it left."""
    before = (checkpoint_steps(workdir / "checkpoints") or [None])[-1]
    start = time.monotonic()
    log = workdir.parent / f"log{number}"
    with log.open("w") as file:
        process = subprocess.Popen(_command(config, workdir, 10**7), stdout=file, stderr=subprocess.STDOUT)
    kind, signum = number % 5, signal.SIGKILL
    if kind in (0, 1):
        moment = "at any time"
        time.sleep(rng.uniform(0.0, _FIRST_SECONDS))
    elif kind in (2, 3):
        moment = "in a save"
        _wait_for_a_step(process, log)  # by then what the kill before left unfinished is cleared away
        while process.poll() is None and not list((workdir / "checkpoints").glob("*tmp*")):
            time.sleep(0.0005)
        time.sleep(rng.uniform(0.0, _SAVE_MS) / 1000)
    else:
        moment, signum = "SIGTERM", signal.SIGTERM
        _wait_for_a_step(process, log)
        time.sleep(rng.uniform(0.0, 2.0))
    process.send_signal(signum)
    code = process.wait(timeout=120)
    text = log.read_text()
    line = {
        "kill": number + 1,
        "moment": moment,
        "seconds": round(time.monotonic() - start, 2),
        "exit": code,
        "resumed_from": int(text.split("resuming from step ")[1].split()[0].strip(",")) if "resuming" in text else None,
        "checkpoints_before": before,
        "last_step": _losses(workdir)[-1][0] if _losses(workdir) else 0,
        "unfinished_save": bool(list((workdir / "checkpoints").glob("*tmp*"))),
    }
    expected = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 128 + signal.SIGTERM}[signum]
    if code != expected or (line["resumed_from"] is not None and line["resumed_from"] != before):
        print(text[-2000:], file=sys.stderr)
        raise SystemExit(f"kill {number + 1}: {line}")
    print(json.dumps(line), flush=True)
    return line


def _wait_for_a_step(process: subprocess.Popen[bytes], log: pathlib.Path) -> None:
    while process.poll() is None and "\nstep " not in log.read_text():
        time.sleep(0.02)


def _losses(workdir: pathlib.Path) -> list[tuple[float, ...]]:
    found = []
    with contextlib.suppress(FileNotFoundError):
        for text in (workdir / "metrics.jsonl").read_text().splitlines():
            with contextlib.suppress(ValueError):  # the last line may be cut short
                record = json.loads(text)
                found.append(tuple(record[name] for name in ("step", "loss", "grad_norm", "param_norm")))
    return found


def _same_state(config: str, *workdirs: pathlib.Path) -> bool:
    """Whether the newest checkpoints of two runs hold the same bits."""
    plain = resolve(load_config(config))
    plain["model"] = {**plain["model"], "dropout": 0.1}
    experiment, layout = build(plain), make_layout()
    ema, rest = split_state(state_shapes(experiment.initial_state, layout))
    states = []
    for workdir in workdirs:
        with Checkpoints(workdir / "checkpoints", keep=3) as checkpoints:
            restored = checkpoints.restore_latest(ema=ema, train=rest)
        assert restored is not None
        restored.train["key"] = jax.random.key_data(restored.train["key"])
        states.append((restored.step, restored.ema, restored.train, restored.meta["batches"]))
    equal = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), *states)
    return all(jax.tree.leaves(equal))


if __name__ == "__main__":
    main()
