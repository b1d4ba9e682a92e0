"""What --mode=translate keeps of each picture: the name of its file, and on request the translation as a file of its own."""

import pathlib

import numpy as np

from scoreflow_jax import figures, files
from scoreflow_jax.experiment import Experiment


def stored_names(taken: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Names of the files that were translated, for an npz; nothing where they are no files."""
    return {"files": np.asarray(taken)} if taken else {}


def save_pictures(folder: pathlib.Path, experiment: Experiment, images: np.ndarray, taken: tuple[str, ...]) -> None:
    """With config.translate.save_pictures a picture of each translation, under the name of its source or its number."""
    if not (experiment.translate.save_pictures and not experiment.spec.is_points):
        return
    for i, image in enumerate(experiment.scaling.to_pixels(images)):
        name = f"{pathlib.PurePath(taken[i]).stem}-{i:05d}" if taken else f"{i:05d}"
        with files.whole_file(folder / "pictures" / f"{name}.png") as path:
            figures.save_picture(path, image)
