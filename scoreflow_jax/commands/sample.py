"""--mode=sample: generates images."""

import pathlib

import jax
import numpy as np

from scoreflow_jax import figures
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.pixels import to_pixels
from scoreflow_jax.sampling.guidance import network_calls

_GRID_ROWS = 20  # of grid.png at the most; samples.npz holds all


def run_command(experiment: Experiment, workdir: pathlib.Path) -> None:
    """Writes sample/{samples.npz, grid.png, report.json}."""
    settings = experiment.sample
    model = workdirs.open_model(experiment, workdir, batch_size=settings.batch_size)
    labels = balanced_labels(settings.num_images, settings.labels or tuple(range(experiment.num_classes)))
    noise = model.noise(jax.random.key(settings.seed), settings.num_images)
    solved = model.solve_generate(noise, labels, guidance=settings.guidance)
    calls = network_calls(settings.guidance)
    out = workdir / "sample"
    stored = labels if labels is not None else np.zeros(len(solved.y), np.int32)
    workdirs.save_arrays(out / "samples.npz", images=to_pixels(solved.y), labels=stored)
    with workdirs.whole_file(out / "grid.png") as path:
        figures.save_grid(path, solved.y[: _GRID_ROWS * settings.columns], columns=settings.columns)
    head = workdirs.report_head(model, "sample", seed=settings.seed)
    workdirs.write_json(
        out / "report.json", {**head, "guidance": settings.guidance, "cost": solved.stats.summary(calls)}
    )
    print(f"generated {len(solved.y)} images: {workdirs.cost_line(solved.stats, calls)}; see {out / 'grid.png'}")


def balanced_labels(count: int, classes: tuple[int, ...]) -> np.ndarray | None:
    """Repeats the classes to `count` labels; None without classes."""
    return np.resize(np.asarray(classes, np.int32), count) if classes else None
