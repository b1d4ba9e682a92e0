"""Measures what a flow map costs to train, beside the drift of the same network, and what it saves in sampling.

    python -m benchmarks.flow_map [--config configs/flow_map.py:digits] [--batch 64] [--repeats 20]

    python -m benchmarks.flow_map --workdir RUN [--images 1000]

The first prints a JSON line for each loss: seconds of a training step, and how many times those of rectified flow by a network
that is told one time; all are compiled first and take turns. The second samples from a trained run by one and by four calls, by
Dopri5 at 1e-5 and by ten midpoint steps (20 calls), in turns (some minutes: a
solve by Dopri5 takes most of them): seconds, the ratio to one call, and the distance to the data.
"""

import argparse
import dataclasses
import json
import statistics
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import scoreflow_jax
from benchmarks.network import take_turns
from scoreflow_jax.command_line import load_config
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.samples import of_samples
from scoreflow_jax.experiment import Experiment, build, resolve
from scoreflow_jax.ode import Solver
from scoreflow_jax.parallel import make_layout
from scoreflow_jax.plain_config import to_plain
from scoreflow_jax.programs import Generate
from scoreflow_jax.training import compile_step, create_state

LOSSES: dict[str, dict[str, Any]] = {
    "lagrangian": {},
    "lagrangian, a quarter with s = t": {"diagonal": 0.25},
    "lagrangian, there and back": {"reversal": 1.0},
    "semigroup": {"rule": "semigroup"},
    "eulerian": {"rule": "eulerian", "normalize": 0.0},
    "eulerian, conditional": {"rule": "eulerian", "normalize": 0.0, "tangent": "conditional"},
}
"""Fields of the objective by what they are called."""

SOLVERS = {
    "1 call": Solver(method="flow_map", num_steps=1),
    "4 calls": Solver(method="flow_map", num_steps=4),
    "midpoint, 20 calls": Solver(method="midpoint", num_steps=10),
    "dopri5 at 1e-5": Solver(),
}


def main() -> None:
    """Measures what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/flow_map.py:digits")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--workdir", help="of a trained flow map, to sample from")
    parser.add_argument("--images", type=int, default=1000)
    args = parser.parse_args()
    head = {"device": f"{jax.device_count()} x {jax.devices()[0].device_kind}", "jax": jax.__version__}
    if args.workdir is None:
        lines = _steps(args.config, args.batch, args.repeats)
    else:
        lines = _samples(args.workdir, args.images, min(args.repeats, 2))
    for line in lines:
        print(json.dumps({**head, **line}), flush=True)


def _steps(name: str, batch: int, repeats: int) -> list[dict[str, Any]]:
    config = to_plain(load_config(name))
    config["train"]["batch_size"] = batch
    config["model"]["time_scale"] = 4.0  # of no matter for speed: by more `eulerian` cannot be trained
    plain = {**config, "objective": {"name": "path_constrained", "weight_exponent": 2.0}}
    plain["model"] = {**config["model"], "two_times": False}
    drift = build(resolve(plain))
    runs = {"drift": _step(drift, None)}
    for words, fields in LOSSES.items():
        runs[words] = _step(build(resolve({**config, "objective": {"name": "flow_map", **fields}})), None)
    taught = build(resolve({**config, "objective": {"name": "flow_map", "diagonal": 0.25}}))
    runs["lagrangian, a quarter with s = t, a teacher"] = _step(dataclasses.replace(taught, teacher=drift), drift)
    seconds = {words: statistics.median(taken) for words, taken in take_turns(runs, repeats).items()}
    return [
        {"step": words, "batch": batch, "seconds": round(taken, 4), "of_the_drift": round(taken / seconds["drift"], 2)}
        for words, taken in seconds.items()
    ]


def _step(experiment: Experiment, teacher: Experiment | None) -> Callable[[], Any]:
    """A training step on random pixels, compiled, which goes on from its own state."""
    layout = make_layout()
    state = create_state(experiment.initial_state, layout)
    if teacher is not None:
        state = dataclasses.replace(state, teacher=jax.jit(teacher.init)(jax.random.key(0)))
    shapes = experiment.batch_shapes(layout.batch)
    pixels = np.random.default_rng(0).integers(0, max(experiment.spec.levels, 2), shapes["image"].shape)
    labels = np.arange(len(pixels), dtype=np.int32) % max(experiment.spec.num_classes, 1)
    batch = jax.device_put({"image": pixels.astype(shapes["image"].dtype), "label": labels}, layout.batch)
    compiled = compile_step(experiment.train_step(), layout, state, batch).call
    holder = [state]

    def run() -> Any:
        holder[0], metrics = compiled(holder[0], batch)
        return metrics

    return run


def _samples(workdir: str, count: int, repeats: int) -> list[dict[str, Any]]:
    model = scoreflow_jax.load(workdir)
    noise = np.asarray(model.source_points(jax.random.key(0), count))
    data = Data(model.experiment)
    labels = data.labels(count)
    taken: dict[str, list[float]] = {name: [] for name in SOLVERS}
    calls: dict[str, float] = {}
    made: dict[str, Any] = {}
    models = {name: model.with_solver(solver) for name, solver in SOLVERS.items()}
    for turn in range(repeats + 1):  # the first compiles
        for name, each in models.items():
            solved = each.solve(Generate(), noise, labels)
            calls[name], made[name] = solved.stats.summary()["nfe_mean"], solved.y
            if turn:
                taken[name].append(solved.stats.seconds)
    seconds = {name: statistics.median(each) for name, each in taken.items()}
    one, exact = seconds["1 call"], made["dopri5 at 1e-5"]
    return [
        {
            "solver": name,
            "images": count,
            "calls": calls[name],
            "seconds": round(s, 4),
            "of_one_call": round(s / one, 1),
            "frechet_distance": round(of_samples(made[name], exact, labels, data)["frechet_distance"], 3),
        }
        for name, s in seconds.items()
    ]


if __name__ == "__main__":
    main()
