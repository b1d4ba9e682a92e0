"""What the commands do otherwise with points of a table than with images: units, names in files, pictures."""

import pathlib

import numpy as np

from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.point_plots import PointPlots
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.typing import HostState


def noun(experiment: Experiment) -> str:
    """What the examples are called, also in files: images or points."""
    return "points" if experiment.spec.is_points else "images"


def stored(experiment: Experiment, workdir: pathlib.Path, x: HostState) -> np.ndarray:
    """Converts examples to what files hold: 8-bit images, or float64 points in the table's own units.

    Args:
        experiment: says whether the examples are points, and how images become pixels.
        workdir: of the run, whose data.json has the table's units; images do not need it.
        x: the examples as models give them, (batch, ...): images in [-1, 1], or standardized points.
    """
    if not experiment.spec.is_points:
        return experiment.scaling.to_pixels(x)
    return workdirs.read_units(workdir).own(x)


def point_plots(experiment: Experiment, workdir: pathlib.Path) -> PointPlots:
    """Makes the plots of a run's points, over the training points where the table can be opened."""
    units, names = workdirs.read_units(workdir), workdirs.class_names(experiment, workdir)
    try:
        return PointPlots.over(experiment.split("train"), units, names)
    except UserError:  # to generate needs no data
        return PointPlots(units, names)
