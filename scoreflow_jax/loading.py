"""Loads trained models from their workdirs, and from the folders of published ones."""

import dataclasses
import pathlib

import jax

from scoreflow_jax.checkpoints import restore_ema
from scoreflow_jax.data import TrainedOn
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import Experiment, build
from scoreflow_jax.model import Model
from scoreflow_jax.parallel import Layout, make_layout
from scoreflow_jax.plain_config import (
    MODEL_FIELDS,
    TRAINING_ONLY,
    differences,
    read_config,
    say_edited,
    to_plain,
    with_end,
)
from scoreflow_jax.published import is_published, locate, read_weights


def load(
    place: str | pathlib.Path,
    *,
    step: int | None = None,
    batch_size: int = 256,
    devices: list[jax.Device] | None = None,
) -> Model:
    """Loads a trained model.

    Args:
        place: the workdir of a run of `--mode=train`, such as "runs/digits"; the folder of a published model; its place on the
            Hugging Face hub, "hf://owner/name" or "hf://owner/name@revision"; or the name of one that is shipped with the
            package, such as "cifar10-small" (`published.locate`). Nothing that a file holds is executed.
        step: the checkpoint; by default the newest.
        batch_size: examples solved for at a time.
        devices: among which to divide them; by default all.

    Raises:
        UserError: no run or no whole checkpoint there, or no way to the hub.
    """
    workdir = locate(place)
    layout = make_layout(devices) if devices else make_layout()
    return load_model(build(read_config(workdir)), workdir, step=step, batch_size=batch_size, layout=layout)


def load_model(
    experiment: Experiment,
    workdir: pathlib.Path,
    *,
    step: int | None = None,
    batch_size: int = 256,
    layout: Layout | None = None,
) -> Model:
    """Loads a model as `load` does, with an experiment's settings, and devices, at hand. Its experiment knows the run's data.

    Args:
        experiment: whose settings count, in place of those that the run was trained with.
        workdir: of the run, or the folder of a published model.
        step: the checkpoint; None: the newest.
        batch_size: examples solved for at a time.
        layout: of the devices; None: all.
    """
    experiment = dataclasses.replace(experiment, trained_on=TrainedOn.read(workdir))
    layout = layout or make_layout()
    on_all = lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=layout.replicated)  # noqa: E731
    shapes = jax.tree.map(on_all, experiment.parameter_shapes())
    more = {"batch_size": batch_size, "layout": layout, "folder": workdir}
    if is_published(workdir):
        weights = read_weights(workdir, shapes)
        if step not in (None, weights.step):
            raise UserError(f"{workdir} holds the weights of step {weights.step} alone, not of step {step}")
        return Model(experiment, weights.params, weights.step, trained_config=read_config(workdir), **more)
    restored = restore_ema(workdir / "checkpoints", ema=shapes, step=step)
    trained = to_plain(with_end(restored.meta["config"]))
    say_edited(workdir, restored.step, differences(to_plain(experiment.config), trained, MODEL_FIELDS, TRAINING_ONLY))
    return Model(experiment, restored.ema, restored.step, trained_config=trained, **more)
