"""The run that a flow map learns from: `config.objective.teacher`, known by its weights, wherever its folder lies."""

import copy
import dataclasses

import jax
import jax.numpy as jnp

from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import Experiment, build
from scoreflow_jax.loading import load_model
from scoreflow_jax.model import Model
from scoreflow_jax.parallel import Layout
from scoreflow_jax.plain_config import differences, read_config, to_plain
from scoreflow_jax.training import TrainState
from scoreflow_jax.typing import PyTree
from scoreflow_jax.user_paths import user_path

_SHARED = ("data.shape", "data.num_classes", "data.levels", "model.conditional", "path")
"""Fields that a flow map and its teacher have in common: of what, and along which path."""


def open_teacher(experiment: Experiment, layout: Layout) -> tuple[Experiment, Model | None]:
    """The experiment that knows its teacher, by its fingerprint in its config too, and the teacher; None: there is none.

    Args:
        experiment: to train, or to go on with.
        layout: of the devices.

    Raises:
        UserError: no run there, one of other data or another path, or another than the one that was learned from until now.
    """
    place, known = experiment.objective.teacher_run
    if place is None:
        return experiment, None
    folder = user_path(place)
    try:
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
    changed = copy.deepcopy(experiment.config)
    changed["objective"]["teacher_sha256"] = model.fingerprint
    taught = build(changed)
    return dataclasses.replace(taught, teacher=model.experiment, trained_on=experiment.trained_on), model


def with_teacher(state: TrainState, teacher: Model) -> TrainState:
    """The state with the weights that the loss compares with; they are in no checkpoint."""
    return dataclasses.replace(state, teacher=teacher.params)


def begun_from(params: PyTree, teacher: Model) -> tuple[PyTree, bool]:
    """The teacher's weights where a fresh network has an array of that name and shape, if all of them find their place.

    Args:
        params: of the fresh network.
        teacher: whose averaged weights.

    Returns:
        The parameters, and whether they are the teacher's.
    """
    own, theirs = (
        {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_flatten_with_path(tree)[0]}
        for tree in (params, teacher.params)
    )
    if any(name not in own or own[name].shape != value.shape for name, value in theirs.items()):
        return params, False
    replace = lambda k, v: jnp.copy(theirs.get(jax.tree_util.keystr(k), v))  # noqa: E731
    return jax.tree_util.tree_map_with_path(replace, params), True
