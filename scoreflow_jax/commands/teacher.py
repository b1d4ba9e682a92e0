"""The run that a flow map learns from: `config.objective.teacher`, known by its weights, wherever its folder lies."""

import copy
import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from scoreflow_jax import processes
from scoreflow_jax.checkpoints import checkpoint_steps
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import Experiment, build
from scoreflow_jax.loading import load_model
from scoreflow_jax.model import Model
from scoreflow_jax.parallel import Layout
from scoreflow_jax.plain_config import TRAINING_ONLY, differences, read_config, to_plain
from scoreflow_jax.published import locate
from scoreflow_jax.training import TrainState
from scoreflow_jax.typing import PyTree

_SHARED = ("data.name", "data.shape", "data.num_classes", "data.levels", "model.conditional", "path")
"""Fields that a flow map and its teacher have in common: of what, and along which path."""

_OF_TRAINING = (*TRAINING_ONLY, "model.two_times", "model.most_guidance", "model.label_dropout")
"""Fields of the network in which they may differ where the one begins with the other's weights."""


def open_teacher(
    experiment: Experiment, layout: Layout, workdir: pathlib.Path | None = None
) -> tuple[Experiment, Model | None]:
    """The experiment that knows its teacher, by its fingerprint in its config too, and the teacher; None: there is none.

    Args:
        experiment: to train, or to go on with.
        layout: of the devices.
        workdir: of the run, which knows its teacher if it was begun; None: the config says.

    Raises:
        UserError: no run there, one of other data or another path, or another than the one that was learned from until now.
    """
    place, known = experiment.objective.teacher_run
    if workdir is not None and checkpoint_steps(workdir / "checkpoints") and (workdir / "config.json").is_file():
        known = to_plain(read_config(workdir)).get("objective", {}).get("teacher_sha256") or known
    if place is None:
        if known is not None:
            raise UserError(
                f"this run learns from a teacher (sha256 {str(known)[:12]}), and config.objective.teacher is None: give its "
                "folder, or train in another workdir"
            )
        return experiment, None
    try:
        folder = locate(place)
        config = read_config(folder)
    except UserError as error:
        raise UserError(
            f"config.objective.teacher: {error}. Give the folder of the run to learn from; where it was moved to, "
            "--config.objective.teacher=FOLDER"
        ) from error
    if other := differences(to_plain(experiment.config), to_plain(config), _SHARED):
        raise UserError(f"config.objective.teacher is {place}, a run of other data or another path: {'; '.join(other)}")
    if experiment.network.label_dropout:
        raise UserError(
            f"config.model.label_dropout is {experiment.network.label_dropout}, but beside a teacher, which is told every label, "
            "none can be dropped: set it to 0, or config.objective.teacher to None"
        )
    model = load_model(build(config), folder, layout=layout)
    if model.experiment.objective.distils:
        raise UserError(
            f"config.objective.teacher is {place}, a student of few steps, which has no ODE: give its teacher"
        )
    if experiment.network.most_guidance and not model.experiment.network.label_dropout:
        raise UserError(
            f"config.model.most_guidance is {experiment.network.most_guidance}, but the teacher {place} does not know the drift "
            "without a label: train it with config.model.label_dropout, or set the first to 0"
        )
    if known not in (None, model.fingerprint):
        raise UserError(
            f"config.objective.teacher is {place}, whose averaged weights at step {model.step} are not those that it learns "
            f"from (sha256 {model.fingerprint[:12]}, expected {str(known)[:12]}): give a copy of that run as it was"
        )
    processes.check_alike("teacher", model.fingerprint)
    changed = copy.deepcopy(experiment.config)
    changed["objective"]["teacher_sha256"] = model.fingerprint
    taught = build(changed)
    return dataclasses.replace(taught, teacher=model.experiment, trained_on=experiment.trained_on), model


def with_teacher(state: TrainState, teacher: Model, layout: Layout) -> TrainState:
    """The state with the weights that the loss compares with, where the layout has weights; they are in no checkpoint."""
    return dataclasses.replace(state, teacher=jax.device_put(teacher.params, layout.of_state(teacher.params)))


def begun_from(params: PyTree, teacher: Model, experiment: Experiment) -> tuple[PyTree, bool]:
    """The teacher's weights in place of a fresh network's, where it is the same network but for its jumps.

    Args:
        params: of the fresh network.
        teacher: whose averaged weights.
        experiment: of the fresh network.

    Returns:
        The parameters, and whether they are the teacher's.
    """
    of = lambda e: to_plain(e.config)  # noqa: E731
    if differences(of(experiment), of(teacher.experiment), ("parameterization", "model"), _OF_TRAINING):
        return params, False
    theirs = {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_flatten_with_path(teacher.params)[0]}

    def replaced(place: Any, own: Array) -> Array:
        """A copy of the teacher's array of that name, where the own one lies."""
        return jax.device_put(jnp.copy(theirs.get(jax.tree_util.keystr(place), own)), own.sharding)

    return jax.tree_util.tree_map_with_path(replaced, params), True
