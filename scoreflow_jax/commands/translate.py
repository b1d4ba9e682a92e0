"""--mode=translate: turns images of one class into another, by the method chosen, and measures both methods."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from scoreflow_jax import figures, files
from scoreflow_jax.commands import points, reports, translate_base
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.commands.translated import save_pictures, stored_names
from scoreflow_jax.data import read_pictures, spread
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.point_plots import PointPlots
from scoreflow_jax.evaluation.translation import Job, translation_quality
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.programs import Translate
from scoreflow_jax.sampling import TRANSLATIONS, Solved, methods_by
from scoreflow_jax.settings.commands import TranslateSettings


def run_command(experiment: Experiment, workdir: pathlib.Path, out: str | None = None) -> None:
    """Writes translate/{translations.npz, grid.png, path.png, report.json}.

    Args:
        experiment: built from the config at hand.
        workdir: the run's folder.
        out: the folder to write to; None: translate/ in the workdir.
    """
    settings = experiment.translate
    if experiment.data.base:
        translate_base.run_command(experiment, workdir, out)
        return
    if not experiment.conditional:
        raise UserError("an unconditional model cannot translate: it has no classes. Use a conditional config")
    if settings.method not in (possible := methods_by(experiment.solver)):
        raise UserError(
            f"config.translate.method is {settings.method!r}, which solves an ODE of two drifts, and config.solver.method "
            f"{experiment.solver.method!r} follows that of one: set the first to 'latent', or the second to 'dopri5'"
        )
    model = workdirs.open_model(experiment, workdir, batch_size=settings.batch_size)
    folder = reports.out_folder("translate", workdir, "translate", out)
    experiment = model.experiment
    job, names, taken = _job(experiment, workdir)
    times = np.linspace(0.0, 1.0, settings.num_times)
    images_and_labels = (job.images, job.source, job.target)
    # States on the way cost the ODE nothing and a flow map a call each: its are made apart, of what is shown alone.
    jumps = experiment.solver.method == "flow_map"
    solved = {m: model.solve(Translate(m), *images_and_labels, times=None if jumps else times) for m in possible}
    if jumps:
        shown = model.solve(Translate(settings.method), *(a[: settings.shown] for a in images_and_labels), times=times)
        solved[settings.method] = dataclasses.replace(solved[settings.method], path=shown.path)
    data = Data(experiment)
    figures_by_method = {m: _measure(m, s, job, data) for m, s in solved.items()}
    chosen, what = solved[settings.method], points.noun(experiment)
    files.save_arrays(
        folder / "translations.npz",
        {
            f"source_{what}": points.stored(experiment, workdir, job.images),
            f"translated_{what}": points.stored(experiment, workdir, chosen.y),
            "source_labels": job.source,
            "target_labels": job.target,
            **stored_names(taken),
        },
    )
    save_pictures(folder, experiment, chosen.y, taken)
    if not experiment.spec.is_points:
        _draw(folder, job, names, solved, settings.method, settings.shown, times)
    else:
        _draw_points(folder, points.point_plots(experiment, workdir), job, solved, settings)
    head = reports.report_head(model, "translate", seed=None)
    images = f"folder {settings.images}" if settings.images else f"split {experiment.data.test_split}"
    files.write_json(
        folder / "report.json", {**head, "method": settings.method, what: images, "methods": figures_by_method}
    )
    print(
        f"translated {len(job.images)} {what} by {settings.method}; see {reports.seen(folder / 'grid.png', folder / 'path.png')}"
    )
    for name, f in figures_by_method.items():
        recognized = f.get("recognized_as_target")
        share = "" if recognized is None else f"recognized as the target {recognized:.1%}, "
        print(
            f"  {name:10s} {share}distance to own source {f['distance_to_own_source']:.2f}, to others of its class "
            f"{f['distance_to_other_sources']:.2f}, NFE {f['cost']['nfe_mean']:.0f}"
        )


def _job(experiment: Experiment, workdir: pathlib.Path) -> tuple[Job, tuple[str, ...], tuple[str, ...]]:
    """The images to translate, from a folder or the test split, the names of all classes, and of the folder's files."""
    settings = experiment.translate
    taken: tuple[str, ...] = ()
    if settings.source is not None and settings.source == settings.target:
        raise UserError(
            f"config.translate.source and target are both {settings.source}: there is nothing to translate. Give two classes"
        )
    if settings.images is not None:
        if experiment.spec.is_points:
            raise UserError(
                "config.translate.images is a folder of pictures: points of a table are taken from its test split"
            )
        if settings.source is None:
            raise UserError(
                "config.translate.images is a folder, so say its class: give --config.translate.source=CLASS"
            )
        data, levels = experiment.data, 256
        taken, pixels = read_pictures(settings.images, experiment.spec.shape, data.framing, data.white_level)
        names = workdirs.class_names(experiment, workdir)
        source = np.full(len(pixels), settings.source, np.int32)
    else:
        split = experiment.split("test")
        labels, names = split.labels(), split.class_names
        wanted = np.full(len(labels), True) if settings.source is None else labels == settings.source
        if settings.target is not None:
            wanted &= labels != settings.target
        wanted = np.flatnonzero(wanted)
        if not len(wanted):
            raise UserError(
                f"no test images of class {settings.source} that are not of class {settings.target} already"
            )
        test = split.read(wanted[spread(labels[wanted], settings.num_images)])
        pixels, source, levels = test["image"], test["label"], experiment.spec.levels
    if settings.target is not None:
        target = np.full(len(pixels), settings.target, np.int32)
    else:
        target = _in_turn(source, workdirs.trained_classes(experiment))
    scaling = dataclasses.replace(experiment.scaling, levels=levels)
    return Job(scaling.to_images(pixels), source, target, np.arange(len(source))), names, taken


def _in_turn(source: np.ndarray, trained: list[int]) -> np.ndarray:
    """A target for each image: every other class that the model was trained on in turn."""
    others = {
        label: [c for c in trained if c > label] + [c for c in trained if c < label] for label in {*source.tolist()}
    }
    if not all(others.values()):
        raise UserError("the model was trained on examples of one class alone: there is no other to translate to")
    return np.asarray([others[label][i % len(others[label])] for i, label in enumerate(source.tolist())], np.int32)


def _measure(method: str, solved: Solved, job: Job, data: Data) -> dict[str, Any]:
    shown = data.experiment.scaling.shown(solved.y)  # what is judged are the pixels that a user gets
    recognized = None if data.judge is None else data.judge.predict(shown)
    cost = solved.stats.summary(TRANSLATIONS[method].network_calls)
    return {**translation_quality(shown, job, recognized), "cost": cost}


def _draw_points(
    out: pathlib.Path, draw: PointPlots, job: Job, solved: dict[str, Solved], settings: TranslateSettings
) -> None:
    """grid.png: sources, and by both methods arrows to what became of them. path.png: the way by the chosen method."""
    first = slice(settings.shown)
    translated = {method: s.y[first] for method, s in solved.items()}
    draw.translations(out / "grid.png", job.images[first], job.source[first], job.target[first], translated)
    states = solved[settings.method].path
    assert states is not None  # times were given
    tracks = np.swapaxes(states, 0, 1)[first]
    draw.tracks(out / "path.png", tracks, job.target[first], f"{settings.method}, in the colours of the targets")


def _draw(
    out: pathlib.Path,
    job: Job,
    names: tuple[str, ...],
    solved: dict[str, Solved],
    method: str,
    shown: int,
    times: np.ndarray,
) -> None:
    """grid.png: source and both translations. path.png: the chosen method along t, as the paper's figure 5d."""
    rows = range(min(shown, len(job.images)))
    captions = [f"{names[job.source[i]]} to {names[job.target[i]]}" for i in rows]
    grid = [np.stack([job.images[i], *(s.y[i] for s in solved.values())]) for i in rows]
    with files.whole_file(out / "grid.png") as path:
        figures.save_rows(path, grid, captions=captions, heads=["source", *solved])
    states = solved[method].path
    assert states is not None  # times were given
    along = [*times[::-1], *times] if method == "latent" else list(times)
    heads = [f"t={t:.2f}" if i == 0 else f"{t:.2f}" for i, t in enumerate(along)]
    with files.whole_file(out / "path.png") as path:
        figures.save_rows(path, [states[:, i] for i in rows], captions=captions, heads=heads)
