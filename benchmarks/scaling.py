"""Measures what several devices and processes, checkpoints and a second start cost; and computes what accelerators would take.

    python -m benchmarks.scaling [--parts devices checkpoints starts table] [--rounds 3] [--steps 20]

devices: seconds of a training step of the digits' network, the same batch of 256 on 1, 2 and 4 virtual devices and in two
processes, taking turns. One machine's cores are shared, so the ideal is the time of one device. checkpoints: how long a save
holds up the training step, and how much the steps beside the writing slow down. starts: seconds from the command to the end of
the first step, with an empty compilation cache and with a full one. table: images a second and days of the paper's run on
accelerators, computed from operations counted, makers' peak rates and a share of them that is assumed: nothing of it is measured.
Prints JSON lines.
"""

import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np

from scoreflow_jax import parallel, processes
from scoreflow_jax.checkpoints import Checkpoints
from scoreflow_jax.command_line import load_config
from scoreflow_jax.commands import train
from scoreflow_jax.experiment import Experiment, build, resolve
from scoreflow_jax.settings import PROCESS_FLAGS
from scoreflow_jax.training import create_state, jit_step, state_shapes

_BATCH = 256
_LAYOUTS = {"1 device": (1, 1), "2 devices": (2, 1), "4 devices": (4, 1), "2 processes": (1, 2)}
_CHIPS = {
    "TPU v3 (a chip)": (2, 61.5), "TPU v4": (1, 275), "TPU v5e": (1, 197), "TPU v5p": (1, 459), "TPU v6e": (1, 918),
    "L4": (1, 121), "A100": (1, 312), "H100 SXM": (1, 989),
}  # fmt: skip
"""Devices of a chip, and tera-operations a second of one in 16 bits, as the makers state them."""
_SHARES = (0.2, 0.4)
_RUNS = {
    "configs/cifar10.py": (128, 800_000),  # rectified flow's published run
    "configs/rectified_flow_256.py": (64, 200_000),  # our choice of steps: none is published
}


def main() -> None:
    """Measures the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["devices", "checkpoints", "starts", "table"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--worker", nargs="*", help="a process of the measurement itself")
    args = parser.parse_args()
    if args.worker is not None:
        _worker(args.steps, *args.worker)
        return
    for part in args.parts:
        {"devices": _devices, "checkpoints": _checkpoints, "starts": _starts, "table": _table}[part](args)


def _experiment(**changes: Any) -> Experiment:
    config = resolve(load_config("configs/digits.py"))
    for name, value in changes.items():
        section, _, field = name.partition("__")
        config[section][field] = value
    return build(config)


def _devices(args: argparse.Namespace) -> None:
    """The same global batch on different layouts, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in _LAYOUTS}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(args.rounds):
            for name, (devices, count) in _LAYOUTS.items():
                seconds[name].append(_run_workers(args.steps, devices, count, cache))
    one = statistics.median(seconds["1 device"])
    for name, times in seconds.items():
        line = {
            "part": "devices",
            "layout": name,
            "seconds_a_step": [round(t, 4) for t in times],
            "share_of_ideal": round(one / statistics.median(times), 3),
        }
        print(json.dumps(line), flush=True)


def _run_workers(steps: int, devices: int, count: int, cache: str) -> float:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    base = [sys.executable, "-m", "benchmarks.scaling", f"--steps={steps}", "--worker", str(devices)]
    peers = lambda i: [f"127.0.0.1:{port}", str(count), str(i)] if count > 1 else []  # noqa: E731
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
    running = [
        subprocess.Popen([*base, *peers(i)], stdout=subprocess.PIPE, text=True, env=environment) for i in range(count)
    ]
    said = [process.communicate()[0] for process in running]
    return float(said[0].strip().splitlines()[-1])


def _worker(steps: int, devices: str, *peers: str) -> None:
    """Prints the median seconds of a step."""
    jax.config.update("jax_num_cpu_devices", int(devices))
    with processes.joined(dict(zip(PROCESS_FLAGS, peers, strict=True)) if peers else {}):
        experiment = _experiment(train__batch_size=_BATCH)
        layout = parallel.make_layout()
        state = create_state(experiment.initial_state, layout)
        step = train.compiled_steps(experiment, layout, state).one
        batches = train.global_batches(experiment, (experiment.split("train"), None), layout, 0)
        times = []
        for _ in range(steps + 3):
            batch, start = next(batches), time.perf_counter()
            state, metrics = step(state, batch)
            jax.block_until_ready((state.params, metrics))
            times.append(time.perf_counter() - start)
        batches.close()
        processes.wait_for_all("end")
        print(statistics.median(times[3:]))


def _checkpoints(args: argparse.Namespace) -> None:
    """A state of some 250 MB, saved while steps go on."""
    experiment = _experiment(model__base_channels=128, model__num_blocks=2, train__batch_size=32)
    layout = parallel.make_layout()
    state = create_state(experiment.initial_state, layout)
    size = sum(
        leaf.nbytes for leaf in jax.tree.leaves((state.params, state.ema_params, state.ema_low, state.opt_state))
    )
    step = train.compiled_steps(experiment, layout, state).one
    batches = train.global_batches(experiment, (experiment.split("train"), None), layout, 0)
    alone, beside, stalls, writes = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(pathlib.Path(folder), keep=2)
        for n in range(args.rounds):
            for times, save in ((alone, False), (beside, True)):
                start = time.perf_counter()
                if save:
                    train.save_state(checkpoints, n + 1, state, experiment, n)
                    stalls.append(time.perf_counter() - start)
                for _ in range(args.steps // 4):
                    batch, begin = next(batches), time.perf_counter()
                    state, metrics = step(state, batch)
                    jax.block_until_ready((state.params, metrics))
                    times.append(time.perf_counter() - begin)
                checkpoints.wait()
                if save:
                    writes.append(time.perf_counter() - start)
        checkpoints.close()
    batches.close()
    line = {
        "part": "checkpoints",
        "state_mb": round(size / 1e6),
        "stall_s": [round(t, 3) for t in stalls],
        "until_written_at_most_s": [round(t, 2) for t in writes],
        "step_alone_s": round(statistics.median(alone), 4),
        "step_beside_a_save_s": round(statistics.median(beside), 4),
    }
    print(json.dumps(line), flush=True)


def _starts(args: argparse.Namespace) -> None:
    """Measures the time from the command to the end of one step, with an empty and a full compilation cache."""
    for round_ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            seconds = []
            for start in ("first", "second"):
                environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
                command = [
                    sys.executable, "main.py", "--config=configs/digits.py", "--mode=train", f"--workdir={folder}/{start}",
                    "--config.train.num_steps=1", "--config.solver.method=euler", "--config.solver.num_steps=1",
                    "--config.train.tensorboard=False",
                ]  # fmt: skip
                begin = time.perf_counter()
                subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
                seconds.append(round(time.perf_counter() - begin, 2))
        line = {"part": "starts", "round": round_ + 1, "first_s": seconds[0], "second_s": seconds[1]}
        print(json.dumps({**line, "ratio": round(seconds[1] / seconds[0], 3)}), flush=True)


def _table(_: argparse.Namespace) -> None:
    """Operations of a step as XLA counts them, and what follows from rates that are stated and shares that are assumed."""
    layout = parallel.one_device()
    for name, (batch, steps) in _RUNS.items():
        config = resolve(load_config(name), {"data": {"num_classes": 0, "shape": (256, 256, 3)}})
        experiment = build({**config, "train": {**config["train"], "batch_size": batch}})
        state = state_shapes(experiment.initial_state, layout)
        lowered = jit_step(experiment.train_step(), layout, state).lower(state, experiment.batch_shapes(layout.batch))
        flops = (lowered.cost_analysis() or {})["flops"]
        rates = {}
        for chip, (devices, peak) in _CHIPS.items():
            found = [share * devices * peak * 1e12 * batch / flops for share in _SHARES]
            rates[chip] = {
                "images_per_second": [round(r) for r in found],
                "days_of_one_chip": [round(steps * batch / r / 86400, 2) for r in found],
            }
        parameters = sum(int(np.prod(s.shape)) for s in jax.tree.leaves(state.params))
        line = {
            "part": "table",
            "config": name,
            "parameters": parameters,
            "gflop_an_image": round(flops / batch / 1e9, 1),
            "images": steps * batch,
            "assumed_shares_of_peak": _SHARES,
            **rates,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
