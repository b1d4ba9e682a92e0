"""One process of several: gradients of the first step and parameters after 20, by the code that --mode=train runs.

python -m tests.processes.worker OUT DEVICES [COORDINATOR NUM_PROCESSES PROCESS_ID]
"""

import sys

import jax
import numpy as np

from scoreflow_jax import parallel, processes
from scoreflow_jax.commands import train
from scoreflow_jax.settings import PROCESS_FLAGS
from tests.commands.runs import experiment_of

STEPS = 20


def main(out: str, devices: str, *peers: str) -> None:
    """Trains and has the first process write an npz."""
    jax.config.update("jax_num_cpu_devices", int(devices))
    with processes.joined(dict(zip(PROCESS_FLAGS, peers, strict=True)) if peers else {}):
        experiment = experiment_of(
            "digits.py", model__channel_multipliers=(1,), model__attention_resolutions=(), model__dropout=0.1,
            optimizer__warmup_steps=0, optimizer__learning_rate=2e-3, train__batch_size=64,
        )  # fmt: skip
        layout = parallel.make_layout()
        state = train.create_state(experiment.initial_state, layout)
        start = jax.device_get(state.params)
        batches = train.global_batches(experiment, (experiment.source("train"), None), layout, 0)
        first = next(batches)
        loss, quarter = experiment.train_loss(), np.arange(16)  # the first of four processes holds these rows

        def gradients(params, key, batch):
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
            np.savez(out, own_labels=labels, shape=(jax.process_count(), jax.device_count()), **flat)
        processes.wait_for_all("end")


if __name__ == "__main__":
    main(*sys.argv[1:])
