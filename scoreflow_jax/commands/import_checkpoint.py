"""--mode=import: makes a run of a published PyTorch checkpoint, on which every other mode then works."""

import hashlib
import pathlib
from typing import Any

from scoreflow_jax import files, writers
from scoreflow_jax.checkpoints import Checkpoints, checkpoint_steps
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.commands.train import save_state
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.models import import_published, num_parameters
from scoreflow_jax.torch_files import read_torch_file
from scoreflow_jax.training import is_compensated, state_of
from scoreflow_jax.user_paths import user_path


def run_command(experiment: Experiment, workdir: pathlib.Path, source: str) -> None:
    """Writes a checkpoint of both weights at the step of the source, with a fresh optimizer, and import.json.

    Args:
        experiment: whose network is the checkpoint's, unconditional.
        workdir: new, or without checkpoints.
        source: a file of score_sde's PyTorch code or of RectifiedFlow: {"model", "ema", "step", "optimizer"}.

    Raises:
        UserError: the workdir holds a run, the file cannot be read, or it is of another network.
    """
    network: Any = experiment.network
    if experiment.conditional or not network.is_published:
        raise UserError(
            "published checkpoints are of unconditional networks: give a config of one, such as "
            "configs/cifar10_unconditional.py, or --config.model.conditional=False"
        )
    if checkpoint_steps(workdir / "checkpoints"):
        raise UserError(f"{workdir} holds checkpoints already: give another --workdir")
    source = str(user_path(source))
    content = _content(source)
    try:
        shadow = content["ema"]["shadow_params"]
        params, ema = import_published(network, experiment.spec.shape, content["model"], shadow)
    except ValueError as error:
        raise UserError(f"{source} does not fit the config: {error}") from error
    state = state_of(
        params,
        ema,
        experiment.optimizer,
        experiment.seed,
        step=content["step"],
        compensated=is_compensated(experiment.train.ema_decay),
    )
    with workdirs.locked(workdir):
        checkpoints = Checkpoints(workdir / "checkpoints", keep=experiment.train.keep_checkpoints)
        try:
            save_state(checkpoints, content["step"], state, experiment, 0)
        finally:
            checkpoints.close()
        files.write_json(workdir / "config.json", experiment.config)
        with files.whole_file(workdir / "parameters.txt") as path:
            path.write_text(writers.parameter_overview(params) + "\n")
        files.write_json(workdir / "import.json", _origin(source, content))
    print(
        f"imported {num_parameters(params):,} parameters and their averages at step {content['step']} into {workdir}; the "
        "optimizer starts anew if you train on"
    )


def _content(source: str) -> dict[str, Any]:
    """The file's content, if it has the parts of a published checkpoint."""
    content = read_torch_file(source)
    parts = {"model": dict, "ema": dict, "step": int}
    for name, kind in parts.items():
        value = content.get(name) if isinstance(content, dict) else None
        if not isinstance(value, kind):
            got = f"{name!r} is {type(value).__name__}" if value is not None else f"it has no {name!r}"
            raise UserError(
                f"{source} is not a checkpoint of score_sde or RectifiedFlow: {got}, expected a dict of 'model' (names to "
                "tensors), 'ema' (with 'shadow_params') and 'step' (a number)"
            )
    if not isinstance(content["ema"].get("shadow_params"), list) or not 0 <= int(content["step"]) < 2**31:
        raise UserError(f"{source}: expected a list 'shadow_params' in its 'ema' and a 'step' from 0 to {2**31 - 1}")
    return content


def _origin(source: str, content: dict[str, Any]) -> dict[str, Any]:
    with pathlib.Path(source).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": pathlib.Path(source).name, "sha256": digest, "step": content["step"], "optimizer": "fresh"}
