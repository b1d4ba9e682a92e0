"""--mode=interpolate: walks between two latents, or between two real images."""

import pathlib

import jax
import numpy as np

from scoreflow_jax import figures, files
from scoreflow_jax.commands import points, reports
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.commands.sample import balanced_labels
from scoreflow_jax.data import spread
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.model import Model
from scoreflow_jax.programs import Encode
from scoreflow_jax.typing import HostState


def run_command(experiment: Experiment, workdir: pathlib.Path, out: str | None = None) -> None:
    """Writes interpolate/{strip.png, interpolations.npz, report.json}.

    Args:
        experiment: built from the config at hand.
        workdir: the run's folder.
        out: the folder to write to; None: interpolate/ in the workdir.
    """
    settings = experiment.interpolate
    if experiment.data.base:
        raise UserError(
            "a model between two data sets has no latents to interpolate: its points at t = 0 are images, config.data.base"
        )
    latents = settings.between == "latents"
    classes = settings.labels or tuple(range(experiment.num_classes))
    labels = balanced_labels(settings.num_pairs, classes)
    model = workdirs.open_model(experiment, workdir, batch_size=settings.batch_size)
    folder = reports.out_folder("interpolate", workdir, "interpolate", out)
    pairs = None if latents else _real_pairs(model.experiment, labels, settings.num_pairs)
    first, second = _latent_pairs(model, settings.seed, settings.num_pairs) if pairs is None else pairs
    encoded = None
    if not latents:
        encoded = model.solve(Encode(), np.concatenate([first, second]), None if labels is None else np.tile(labels, 2))
        first, second = np.split(encoded.y, 2)
    solved = model.solve_between(first, second, labels, num_steps=settings.num_steps, rule=settings.rule)
    stored = labels if labels is not None else np.zeros(settings.num_pairs, np.int32)
    examples = points.stored(experiment, workdir, solved.y)
    files.save_arrays(folder / "interpolations.npz", {points.noun(experiment): examples, "labels": stored})
    _draw(experiment, workdir, folder / "strip.png", solved.y, labels)
    head = reports.report_head(model, "interpolate", seed=settings.seed)
    cost = {"cost": solved.stats.summary()} | ({"encode_cost": encoded.stats.summary()} if encoded else {})
    facts = {"between": settings.between, "rule": settings.rule, "num_steps": settings.num_steps}
    files.write_json(folder / "report.json", {**head, **facts, **cost})
    print(
        f"interpolated {settings.num_pairs} pairs: {reports.cost_line(solved.stats)}; see {reports.seen(folder / 'strip.png')}"
    )


def _draw(
    experiment: Experiment, workdir: pathlib.Path, path: pathlib.Path, walks: np.ndarray, labels: np.ndarray | None
) -> None:
    """A row a pair; of points a line."""
    if experiment.spec.is_points:
        title = f"interpolation, {experiment.interpolate.rule}"
        points.point_plots(experiment, workdir).tracks(path, walks, labels, title)
        return
    names = workdirs.class_names(experiment, workdir)
    captions = None if labels is None else [f"class {n}" if (n := names[label]).isdigit() else n for label in labels]
    heads = [f"{alpha:.2f}" for alpha in np.linspace(0, 1, experiment.interpolate.num_steps)]
    with files.whole_file(path) as temporary:
        figures.save_rows(temporary, list(walks), captions=captions, heads=heads)


def _latent_pairs(model: Model, seed: int, count: int) -> tuple[jax.Array, jax.Array]:
    noise = model.source_points(jax.random.key(seed), 2 * count)
    return noise[0::2], noise[1::2]


def _real_pairs(experiment: Experiment, labels: np.ndarray | None, count: int) -> tuple[HostState, HostState]:
    """The next two unused test images of each label in turn; of any class for an unconditional model.

    Raises:
        UserError: the test split has too few of a class.
    """
    test = experiment.split("test")
    known = test.labels()
    pool: dict[int, list[int]] = {c: np.flatnonzero(known == c).tolist() for c in np.unique(known)}
    pool[-1] = spread(known, len(known)).tolist()
    chosen: list[int] = []
    for label in labels if labels is not None else [-1] * count:
        members = pool.get(int(label), [])
        if len(members) < 2:
            raise UserError(f"too few test images of class {label}: lower config.interpolate.num_pairs")
        chosen += [members.pop(0), members.pop(0)]
    images = experiment.scaling.to_images(test.read(chosen)["image"])
    return images[0::2], images[1::2]
