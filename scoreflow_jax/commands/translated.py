"""What --mode=translate keeps of each picture: the name of its file, and on request the translation as a file of its own."""

import pathlib

import numpy as np

from scoreflow_jax import figures, files
from scoreflow_jax.experiment import Experiment


def stored_names(taken: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Names of the files that were translated, for an npz; nothing where they are no files."""
    return {"files": np.asarray(taken)} if taken else {}


def save_pictures(folder: pathlib.Path, experiment: Experiment, images: np.ndarray, taken: tuple[str, ...]) -> None:
    """Writes a picture of each translation, where config.translate.save_pictures asks for it, under its source's name and number.

    Args:
        folder: of the command's results; the pictures go to pictures/ in it.
        experiment: has the setting, and how images become pixels.
        images: the translations, (batch, height, width, channel) in [-1, 1].
        taken: the name of each source's file; empty where they are a data set's: then the pictures have numbers alone.
    """
    if not (experiment.translate.save_pictures and not experiment.spec.is_points):
        return
    for i, image in enumerate(experiment.scaling.to_pixels(images)):
        name = f"{pathlib.PurePath(taken[i]).stem}-{i:05d}" if taken else f"{i:05d}"
        with files.whole_file(folder / "pictures" / f"{name}.png") as path:
            figures.save_picture(path, image)
