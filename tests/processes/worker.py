"""One process of several: gradients of the first step and parameters after 20, by the code that --mode=train runs.

python -m tests.processes.worker FOLDER TABLE [COORDINATOR NUM_PROCESSES PROCESS_ID]

Alone it trains on pictures and on points, with one device and with four; as one of several, with a device each, on points.
A part of that is one npz, which the first process writes.
"""

import sys
from typing import Any

import jax
import numpy as np

from scoreflow_jax import parallel, processes
from scoreflow_jax.commands import train
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.settings import PROCESS_FLAGS
from tests.commands.runs import experiment_of
from tests.test_points import experiment_of as experiment_of_points

STEPS = 20
CHANGES = {"optimizer__warmup_steps": 0, "optimizer__learning_rate": 2e-3, "train__batch_size": 64}


def main(folder: str, table: str, *peers: str) -> None:
    """Trains and has the first process write the results."""
    jax.config.update("jax_num_cpu_devices", 1 if peers else 4)
    with processes.joined(dict(zip(PROCESS_FLAGS, peers, strict=True)) if peers else {}):
        points = experiment_of_points(table, smoke=True, model__label_dropout=0.2, **CHANGES)
        if peers:
            measure(points, parallel.make_layout(), f"{folder}/points_{jax.process_count()}x1.npz")
        else:
            pictures = experiment_of("digits.py", model__dropout=0.1, **CHANGES)
            one, four = parallel.make_layout(jax.devices()[:1]), parallel.make_layout()
            for experiment, layout, name in (
                (pictures, one, "pictures_1x1"), (pictures, four, "pictures_1x4"),
                (points, one, "points_1x1"), (points, four, "points_1x4"),
            ):  # fmt: skip
                measure(experiment, layout, f"{folder}/{name}.npz")
        processes.wait_for_all("end")


def measure(experiment: Experiment, layout: parallel.Layout, out: str) -> None:
    """Gradients of the first step, of the batch and of its first quarter alone, and parameters before and after all steps."""
    state = train.create_state(experiment.initial_state, layout)
    start = jax.device_get(state.params)
    batches = train.global_batches(experiment, (experiment.split("train"), None), layout, 0)
    first = next(batches)
    loss, quarter = experiment.train_loss(), np.arange(16)  # the first of four processes holds these rows

    def gradients(params: Any, key: jax.Array, batch: Any) -> Any:
        drawn = loss.draw(jax.random.fold_in(key, 0), batch)
        alone = lambda params: loss.per_example(params, drawn)[quarter].mean()
        return jax.grad(loss.mean)(params, drawn), jax.grad(alone)(params)

    found, alone = jax.jit(gradients, out_shardings=layout.replicated)(state.params, state.key, first)
    found, alone = jax.device_get((found, alone))
    labels = np.asarray([shard.data for shard in first["label"].addressable_shards]).ravel()
    step = train.compiled_steps(experiment, layout, state).one
    for n in range(STEPS):
        state, _ = step(state, first if n == 0 else next(batches))
    batches.close()
    if jax.process_index() == 0:
        flat = {}
        ends = jax.device_get(state.params)
        for name, tree in (("gradient", found), ("alone", alone), ("start", start), ("end", ends)):
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
                flat[name + jax.tree_util.keystr(path)] = leaf
        np.savez(out, own_labels=labels, shape=(jax.process_count(), layout.mesh.size), **flat)


if __name__ == "__main__":
    main(*sys.argv[1:])
