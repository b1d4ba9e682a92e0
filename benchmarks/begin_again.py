"""Makes a run of the photographs' weights in the package: a checkpoint at their step, from which --mode=train goes on.

    python -m benchmarks.begin_again RUN --config.data.source=arrays --config.data.path=cifar10.npz

Parameters and average are both the stored weights, in bfloat16's precision; the optimizer begins anew, with its warm-up. Images
and noise go on where those of the run had come to. Give --mode=train the same changes of the config.
"""

import argparse
import json
import pathlib

import jax
import jax.numpy as jnp

from scoreflow_jax import files, plain_config, published
from scoreflow_jax.checkpoints import Checkpoints
from scoreflow_jax.commands.train import save_state
from scoreflow_jax.experiment import build
from scoreflow_jax.training import is_compensated, state_of

FOLDER = published.locate("pretrained:cifar10-small")


def begin_again(workdir: pathlib.Path, changes: dict[str, str]) -> None:
    """Writes the checkpoint and the config.

    Args:
        workdir: of the run, new.
        changes: of the config, dotted names to texts.
    """
    stored = plain_config.to_plain(json.loads((FOLDER / "config.json").read_text()))
    experiment = build(plain_config.changed(stored, changes))
    weights = published.read_weights(FOLDER, experiment.parameter_shapes())
    params, step = weights.params, weights.step
    state = state_of(
        params,
        jax.tree.map(jnp.copy, params),
        experiment.optimizer,
        experiment.seed,
        step=step,
        compensated=is_compensated(experiment.train.ema_decay),
    )
    workdir.mkdir(parents=True)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=experiment.train.keep_checkpoints)
    save_state(checkpoints, step, state, experiment, step)
    checkpoints.close()
    files.write_json(workdir / "config.json", experiment.config)
    print(f"{workdir} stands at step {step}; go on by --mode=train with the same changes")


def main() -> None:
    """Reads the workdir and changes of the config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", type=pathlib.Path)
    arguments, rest = parser.parse_known_args()
    pairs = [argument.removeprefix("--config.").partition("=") for argument in rest]
    begin_again(arguments.workdir, {name: value for name, _, value in pairs})


if __name__ == "__main__":
    main()
