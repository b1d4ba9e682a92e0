"""The same network by PyTorch and by this package: seconds of training, sampling and encoding, and what each has learned.

    python -m benchmarks.side_by_side --torch-python PYTHON [--config configs/cifar10_small.py] [--batch 64] [--dtype float32]

    python -m benchmarks.side_by_side --torch-python PYTHON --train FOLDER --images cifar10.npz --steps 300 --seeds 0 1 2

PYTHON has PyTorch, NumPy and safetensors; what runs there is benchmarks/torch_loop.py. The first form times both, taking turns:
the training step, the network alone, 20 calls of the midpoint method from noise to images and from images to noise, all in one
type (--config.solver.dtype, which else is float32). It begins by comparing the two networks on the same weights. The second form
trains one run each by both from the same initial weights, on the same images in orders of their own, and has this package
evaluate both.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.network import take_turns
from scoreflow_jax import files, models, published
from scoreflow_jax.checkpoints import Checkpoints
from scoreflow_jax.command_line import load_config
from scoreflow_jax.commands.train import save_state
from scoreflow_jax.experiment import Experiment, build
from scoreflow_jax.model import Model
from scoreflow_jax.parallel import keep_freed_memory, make_layout
from scoreflow_jax.plain_config import changed, to_plain
from scoreflow_jax.processor import prepare_bfloat16
from scoreflow_jax.training import compile_step, create_state, is_compensated, state_of

_LOOP = pathlib.Path(__file__).parent / "torch_loop.py"
_AGREE = {"float32": 1e-5, "bfloat16": 3e-2}
"""Difference of the two networks by root mean square, over that of the drift, up to which they count as the same."""


class Torch:
    """The other process, asked one thing at a time."""

    def __init__(self, python: str, config: dict[str, Any]) -> None:
        command = [python, str(_LOOP), json.dumps(config)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self._answer()

    def ask(self, what: str, **more: Any) -> dict[str, Any]:
        """Its answer to a request."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **more}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the process with PyTorch ended: see its message above")
        return json.loads(line)


def main() -> None:
    """Measures what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", required=True, help="a Python that has PyTorch, NumPy and safetensors")
    parser.add_argument("--config", default="configs/cifar10_small.py")
    parser.add_argument("--batch", type=int, help="default the config's")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default the config's of training")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=("step", "forward", "sample", "encode"))
    parser.add_argument(
        "--train", type=pathlib.Path, metavar="FOLDER", help="train by both and compare what was learned"
    )
    parser.add_argument(
        "--images", help="an .npz file of train_images, train_labels, test_images and test_labels, for --train"
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    config = to_plain(load_config(args.config))
    config["model"]["dtype"] = args.dtype or config["model"]["dtype"]
    config["train"]["batch_size"] = args.batch or config["train"]["batch_size"]
    if config["model"]["dtype"] == "bfloat16" and (message := prepare_bfloat16(os.environ)):
        print(message)
    if config["model"]["base_channels"] >= 64:  # as --mode=train does
        keep_freed_memory()
    if args.train:
        learned(args, config)
    else:
        timed(args, config)


def timed(args: argparse.Namespace, config: dict[str, Any]) -> None:
    """Prints the seconds of each program by both, and their ratio."""
    experiment = build(config)
    layout = make_layout()
    state = jax.block_until_ready(create_state(experiment.initial_state, layout))
    other = Torch(args.torch_python, json.loads(json.dumps(config)))
    dtype = config["model"]["dtype"]
    with tempfile.TemporaryDirectory() as folder:
        far = _difference(experiment, other, pathlib.Path(folder), dtype)
    print(json.dumps({"difference": far, "dtype": dtype, "jax": jax.__version__, **other.about}))
    if far > _AGREE[dtype]:
        raise SystemExit(f"the networks differ by {far:.2g} of their size, expected {_AGREE[dtype]:g} at the most")
    wanted = args.only or ("step", "forward", "sample", "encode")
    runs: dict[str, Callable[[], Any]] = {}
    compile_s: dict[str, float] = {}
    for name in wanted:
        start = time.perf_counter()
        runs[name] = _PROGRAMS[name](experiment, state, layout)
        compile_s[name] = round(time.perf_counter() - start, 1)
        runs[f"{name} by PyTorch"] = functools.partial(other.ask, name)
    # PyTorch's answer says how long its work took: the pipe is not part of it, but takes microseconds.
    seconds = take_turns(runs, args.repeats)
    batch = config["train"]["batch_size"]
    for name in wanted:
        here, there = statistics.median(seconds[name]), statistics.median(seconds[f"{name} by PyTorch"])
        line = {
            "program": name,
            "dtype": dtype,
            "batch": batch,
            "seconds": round(here, 4),
            "seconds_by_torch": round(there, 4),
            "of_torch": round(here / there, 3),
            "turns": [round(a / b, 2) for a, b in zip(seconds[name], seconds[f"{name} by PyTorch"], strict=True)],
            "images_per_s": round(batch / here, 1),
            "start_s": compile_s[name],
        }
        print(json.dumps(line), flush=True)


def _difference(experiment: Experiment, other: Torch, folder: pathlib.Path, dtype: str) -> float:
    """Gives the other network weights drawn at random in every place, and compares the two drifts."""
    shapes = published.flatten(experiment.parameter_shapes())
    rng = np.random.default_rng(0)
    # Also where a fresh network has zeros, which would hide what stands behind them.
    fan = lambda shape: 1.0 if len(shape) < 2 else np.sqrt(1.0 / np.prod(shape[:-1]))  # noqa: E731
    weights = {n: (fan(s.shape) * rng.standard_normal(s.shape)).astype(np.float32) for n, s in shapes.items()}
    save_file(weights, folder / "weights.safetensors")
    other.ask("load", file=str(folder / "weights.safetensors"), dtype=dtype)
    x, t = rng.standard_normal((8, *experiment.spec.shape)).astype(np.float32), np.linspace(0, 1, 8, dtype=np.float32)
    given = {"x": x, "t": t}
    if experiment.conditional:
        given["label"] = np.arange(8) % experiment.num_classes
    save_file(given, folder / "given.safetensors")
    other.ask("compare", file=str(folder / "given.safetensors"), out=str(folder / "drift.safetensors"))
    there = load_file(folder / "drift.safetensors")["drift"]
    params = published.placed(experiment.parameter_shapes(), weights)
    label = jnp.asarray(given["label"], jnp.int32) if "label" in given else None
    here = np.asarray(jax.jit(models.make_drift(experiment.network, params))(jnp.asarray(x), jnp.asarray(t), label))
    return float(np.sqrt(np.mean((here - there) ** 2) / np.mean(here**2)))


def _step(experiment: Experiment, state: Any, layout: Any) -> Callable[[], Any]:
    shapes = experiment.batch_shapes(layout.batch)
    pixels = np.random.default_rng(0).integers(0, 256, shapes["image"].shape, np.uint8)
    labels = np.arange(len(pixels), dtype=np.int32) % max(experiment.spec.num_classes, 1)
    batch = jax.device_put({"image": pixels, "label": labels}, layout.batch)
    state = jax.tree.map(jnp.copy, state)  # the step takes its buffers
    start = time.perf_counter()
    compiled = compile_step(experiment.train_step(), layout, state, batch).call
    print(json.dumps({"program": "step", "traced_and_compiled_s": round(time.perf_counter() - start, 1)}), flush=True)
    holder = [state]

    def run() -> Any:
        holder[0], metrics = compiled(holder[0], batch)
        return metrics

    return run


def _forward(experiment: Experiment, state: Any, layout: Any) -> Callable[[], Any]:
    del layout
    n = experiment.train.batch_size
    label = jnp.arange(n) % experiment.num_classes if experiment.conditional else None
    x, t = jax.random.normal(jax.random.key(1), (n, *experiment.spec.shape)), jnp.linspace(0.1, 0.9, n)
    drift = jax.jit(lambda params, x, t, label: models.make_drift(experiment.network, params)(x, t, label))
    return functools.partial(drift, state.params, x, t, label)


def _model(experiment: Experiment, state: Any) -> Model:
    fields = {"method": "midpoint", "num_steps": 10, "dtype": experiment.network.dtype}
    solver = dataclasses.replace(experiment.solver, **fields)
    return Model(experiment, state.params, 0, batch_size=experiment.train.batch_size).with_solver(solver)


def _labels(experiment: Experiment) -> Any:
    return np.arange(experiment.train.batch_size) % experiment.num_classes if experiment.conditional else None


def _sample(experiment: Experiment, state: Any, layout: Any) -> Callable[[], Any]:
    del layout
    model, labels = _model(experiment, state), _labels(experiment)
    return lambda: model.generate(0, labels=labels, num_images=experiment.train.batch_size)


def _encode(experiment: Experiment, state: Any, layout: Any) -> Callable[[], Any]:
    del layout
    model, labels = _model(experiment, state), _labels(experiment)
    shape = (experiment.train.batch_size, *experiment.spec.shape)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    return lambda: model.encode(images, labels)


_PROGRAMS = {"step": _step, "forward": _forward, "sample": _sample, "encode": _encode}


def learned(args: argparse.Namespace, config: dict[str, Any]) -> None:
    """Trains by both, evaluates both, and prints what the reports say."""
    changes = {
        "train.num_steps": args.steps,
        "train.checkpoint_every": args.steps,
        "train.sample_every": 0,
        "train.log_every": max(args.steps // 4, 1),
        "train.tensorboard": False,
        "data.source": "arrays",
        "data.path": args.images,
        "optimizer.warmup_steps": min(config["optimizer"]["warmup_steps"], args.steps // 4),
    }
    args.train.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        here, there = args.train / f"here_{seed}", args.train / f"torch_{seed}"
        settings = changed(config, {n: str(v) for n, v in {**changes, "seed": seed}.items()})
        source = args.train / f"config_{seed}.json"
        files.write_json(source, settings)
        start = time.perf_counter()
        _command("--mode=train", f"--config={source}", f"--workdir={here}")
        took = time.perf_counter() - start
        print(json.dumps({"by": "this package", "seed": seed, "seconds_with_start": round(took, 1)}), flush=True)
        answer = _train_there(args, settings, here, there)
        print(json.dumps({"by": "PyTorch", "seed": seed, **answer}), flush=True)
        for folder in (here, there):
            _command(
                "--mode=eval",
                f"--config={folder / 'config.json'}",
                f"--workdir={folder}",
                "--config.eval.split=test",
                "--config.eval.generation.images=1000",
                "--config.eval.generation.keep_images=False",
                "--config.eval.translation.on=False",
                "--config.eval.reversibility.on=False",
                "--config.eval.residual.on=True",
                "--config.eval.residual.images=500",
                "--config.eval.residual.noises=1",
                "--config.eval.residual.times=11",
                "--config.solver.method=midpoint",
                "--config.solver.num_steps=20",
            )
            print(json.dumps({"of": folder.name, **_figures(folder)}), flush=True)


def _train_there(args: argparse.Namespace, settings: dict[str, Any], here: pathlib.Path, there: pathlib.Path) -> Any:
    """Trains by PyTorch from our initial weights, and makes a run of what comes out."""
    experiment = build(settings)
    initial = jax.jit(experiment.initial_state)()
    other = Torch(args.torch_python, json.loads(json.dumps(settings)))
    with tempfile.TemporaryDirectory() as folder:
        file, out = pathlib.Path(folder) / "initial.safetensors", pathlib.Path(folder) / "trained.safetensors"
        save_file({n: np.asarray(leaf) for n, leaf in published.flatten(initial.params).items()}, file)
        other.ask("load", file=str(file), dtype=settings["model"]["dtype"])
        answer = other.ask("train", steps=args.steps, images=args.images, out=str(out), seed=experiment.seed)
        average = published.placed(experiment.parameter_shapes(), load_file(out))
    compensated = is_compensated(experiment.train.ema_decay)
    more = {"step": args.steps, "compensated": compensated}
    state = state_of(average, jax.tree.map(jnp.copy, average), experiment.optimizer, experiment.seed, **more)
    there.mkdir(parents=True)
    checkpoints = Checkpoints(there / "checkpoints", keep=experiment.train.keep_checkpoints)
    save_state(checkpoints, args.steps, state, experiment, 0)
    checkpoints.close()
    for name in ("config.json", "data.json"):
        shutil.copy(here / name, there / name)
    return answer


def _command(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "main.py", *arguments], stdout=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(f"main.py {' '.join(arguments)} ended with {done.returncode}")


def _figures(folder: pathlib.Path) -> dict[str, Any]:
    report = json.loads(sorted(folder.glob("eval/*/report.json"))[-1].read_text())
    return {"report": {name: value for name, value in report.items() if name in ("generation", "residual")}}


if __name__ == "__main__":
    main()
