"""--mode=translate of a model between two data sets: the plain ODE, or an SDE, from t = 0 forwards, from t = 1 back."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from scoreflow_jax import figures, files, plots
from scoreflow_jax.commands import points, reports
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.commands.translated import save_pictures, stored_names
from scoreflow_jax.data import DataSource, read_all, read_pictures, spread
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.host_typing import HostState
from scoreflow_jax.model import Model
from scoreflow_jax.programs import Encode, Generate
from scoreflow_jax.randomness import key_of
from scoreflow_jax.sampling import Solved

BASE, DATA = 0, 1
"""What `config.translate.source` and `target` mean for such a model: the data at t = 0 and at t = 1."""


def run_command(experiment: Experiment, workdir: pathlib.Path, out: str | None = None) -> None:
    """Writes translate/{translations.npz, grid.png, path.png, report.json}: both ways, or the one that `source` names.

    Points stand in translations.npz in the units of the table at whose end they are.

    Args:
        experiment: built from the config at hand.
        workdir: the run's folder.
        out: the folder to write to; None: translate/ in the workdir.
    """
    if experiment.conditional:
        raise UserError(
            "a model between two data sets that also has classes cannot be translated with here; use the Python API"
        )
    ways = _ways(experiment)
    if experiment.spec.is_points and experiment.translate.images is not None:
        raise UserError("config.translate.images is a folder of pictures, but these data are points: leave it empty")
    model = workdirs.open_model(experiment, workdir, batch_size=experiment.translate.batch_size)
    folder = reports.out_folder("translate", workdir, "translate", out)
    names, pixels, taken = _names_and_pixels(model.experiment, ways)
    levels = 256 if experiment.translate.images is not None else experiment.spec.levels
    scaling = dataclasses.replace(experiment.scaling, levels=levels)
    times = np.linspace(0.0, 1.0, experiment.translate.num_times)
    images = {way: scaling.to_images(pixels[way]) for way in ways}
    solved = {way: _carry(model, images[way], way, times) for way in ways}
    back = {way: _carry(model, solved[way].y, 1 - way, None) for way in ways}
    if not experiment.spec.is_points:
        shown = {way: (scaling.to_pixels(images[way]), scaling.to_pixels(solved[way].y)) for way in ways}
    else:  # each end has units of its own
        units = {DATA: workdirs.read_units(workdir), BASE: workdirs.read_units(workdir, base=True)}
        shown = {way: (units[way].own(pixels[way]), units[1 - way].own(solved[way].y)) for way in ways}
    what = points.noun(experiment)
    joined = {
        f"source_{what}": np.concatenate([shown[way][0] for way in ways]),
        f"translated_{what}": np.concatenate([shown[way][1] for way in ways]),
        "source_labels": np.concatenate([np.full(len(pixels[way]), way, np.int32) for way in ways]),
        "target_labels": np.concatenate([np.full(len(pixels[way]), 1 - way, np.int32) for way in ways]),
        **stored_names(taken),
    }
    save_pictures(folder, model.experiment, np.concatenate([solved[way].y for way in ways]), taken)
    files.save_arrays(folder / "translations.npz", joined)
    carried = [_Carried(way, names[way], names[1 - way], images[way], solved[way], back[way]) for way in ways]
    if experiment.spec.is_points:
        _draw_points(folder, model.experiment, carried)
    else:
        _draw(folder, carried, experiment.translate.shown, times)
    by_way: dict[str, dict[str, Any]] = {
        f"{names[way]} to {names[1 - way]}": {
            what: len(pixels[way]),
            "there_and_back_error": float(np.mean(np.abs(back[way].y - images[way]))),
            "cost": solved[way].stats.summary(),
        }
        for way in ways
    }
    head = reports.report_head(model, "translate", seed=None, by_sampler=True)
    by = "the ODE itself" if experiment.sampler.is_ode else "the SDE of config.sampler"
    files.write_json(folder / "report.json", {**head, "method": by, "translations": by_way})
    print(f"translated by {by}; see {reports.seen(folder / 'grid.png', folder / 'path.png')}")
    for name, f in by_way.items():
        print(
            f"  {name}: {f[what]} {what}, there and back within {f['there_and_back_error']:.1e} "
            f"{'standard deviations' if experiment.spec.is_points else 'in [-1, 1]'}, NFE {f['cost']['nfe_mean']:.0f}"
        )


def _ways(experiment: Experiment) -> list[int]:
    """Which of the two data sets to start from."""
    settings = experiment.translate
    for name in ("source", "target"):
        if getattr(settings, name) not in (None, BASE, DATA):
            raise UserError(
                f"config.translate.{name} is {getattr(settings, name)}, expected {BASE} (the data at t = 0) or {DATA} (at t = 1)"
            )
    if settings.source is not None and settings.source == settings.target:
        raise UserError(
            f"config.translate.source and target are both {settings.source}: give {BASE} and {DATA}, or one of them"
        )
    if settings.images is not None and settings.source is None:
        raise UserError("config.translate.images is a folder, so say what it holds: --config.translate.source=0 or 1")
    first = settings.source if settings.source is not None else None if settings.target is None else 1 - settings.target
    return [BASE, DATA] if first is None else [first]


def _names_and_pixels(
    experiment: Experiment, ways: list[int]
) -> tuple[tuple[str, str], dict[int, Any], tuple[str, ...]]:
    """What both data sets are called, the test examples, or the folder's pictures, to start from, and the names of its files."""
    count, folder = experiment.translate.num_images, experiment.translate.images
    if folder is not None:
        data = experiment.base_settings if ways[0] == BASE else experiment.data
        files, pictures = read_pictures(folder, experiment.spec.shape, data.framing, data.white_level)
        return ("data at t=0", "data at t=1"), {ways[0]: pictures}, files
    sources = experiment.base_split("test"), experiment.split("test")
    first, second = (_name(source, number) for number, source in enumerate(sources))
    read = {way: sources[way].read(spread(sources[way].labels(), count))["image"] for way in ways}
    return (first, second), read, ()


def _name(source: DataSource, number: int) -> str:
    if source.facts.get("kind") == "toy":
        return str(source.facts["name"])
    return source.class_names[0] if len(source.class_names) == 1 else f"data at t={number}"


def _carry(model: Model, images: Any, way: int, times: np.ndarray | None) -> Solved:
    """Carries images from t = 0 to 1, or back: by the ODE, or by the SDE of config.sampler, which keeps no states on the way."""
    if not model.experiment.sampler.is_ode:
        key = jax.random.fold_in(key_of(jax.random.key(0), "translation"), way)
        return model.solve_stochastic(key, images, backwards=way != BASE)
    if way == BASE:
        return model.solve(Generate(), images, None, times=times)
    return model.solve(Encode(), images, None, times=None if times is None else times[::-1])


class _Carried(NamedTuple):
    """The examples of one end, carried to the other and back.

    Attributes:
        start: the end that they are of, `BASE` or `DATA`.
        name, target: what the data of this end and of the other are called.
        images: the examples.
        there, back: the two solves.
    """

    start: int
    name: str
    target: str
    images: HostState
    there: Solved
    back: Solved


def _draw_points(out: pathlib.Path, experiment: Experiment, carried: list[_Carried]) -> None:
    """grid.png: sources, translations and the way back, over the data of their ends. path.png: ways along t. All standardized."""
    sources = experiment.base_split("train"), experiment.split("train")
    behind = [read_all(source, plots.MOST)["image"] for source in sources]
    columns = [f"{name}, standardized" for name in sources[DATA].facts["columns"]]
    clouds = []
    for c in carried:
        for title, shown, end in (
            (c.name, c.images, c.start),
            (f"{c.name} to {c.target}", c.there.y, 1 - c.start),
            ("and back", c.back.y, c.start),
        ):
            clouds.append(plots.Cloud(title, np.asarray(shown)[: plots.MOST], None, behind[end]))
    with files.whole_file(out / "grid.png") as path:
        plots.save_clouds(path, clouds, columns, in_line=3)
    first = carried[0]
    if (states := first.there.path) is not None:
        tracks = np.swapaxes(states, 0, 1)[: experiment.translate.shown]
        cloud = plots.Cloud(f"{first.name} to {first.target}", tracks[:, 0], None, behind[1 - first.start])
        with files.whole_file(out / "path.png") as path:
            plots.save_tracks(path, tracks, cloud, columns)


def _draw(out: pathlib.Path, carried: list[_Carried], most: int, times: np.ndarray) -> None:
    """grid.png: source, translation and the way back, of the first `most` of each end. path.png: the way along t."""
    rows, paths, captions = [], [], []
    for c in carried:
        shown = range(min(most, len(c.images)))
        captions += [f"{c.name} to {c.target}"] * len(shown)
        rows += [np.stack([c.images[i], c.there.y[i], c.back.y[i]]) for i in shown]
        if (states := c.there.path) is not None:
            paths += [states[:, i] if c.start == BASE else states[::-1, i] for i in shown]
    with files.whole_file(out / "grid.png") as path:
        figures.save_rows(path, rows, captions=captions, heads=["source", "translated", "back"])
    if not paths:
        return
    heads = [f"t={t:.2f}" if i == 0 else f"{t:.2f}" for i, t in enumerate(times)]
    with files.whole_file(out / "path.png") as path:
        figures.save_rows(path, paths, captions=captions, heads=heads)
