"""--mode=translate: turns images of one class into another, by the method chosen, and measures both methods."""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from scoreflow_jax import figures
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.data import read_all
from scoreflow_jax.data.image_folder import read_pictures
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.metrics.diversity import distances_to_sources
from scoreflow_jax.pixels import to_pixels, to_unit_range_host
from scoreflow_jax.sampling import TRANSLATIONS, Solved
from scoreflow_jax.typing import HostImages


class _Job(NamedTuple):
    """Images with the classes they are of and shall become."""

    images: HostImages
    source: np.ndarray
    target: np.ndarray
    names: tuple[str, ...]  # of the classes


def run_command(experiment: Experiment, workdir: pathlib.Path) -> None:
    """Writes translate/{translations.npz, grid.png, path.png, report.json}."""
    settings = experiment.translate
    if not experiment.conditional:
        raise UserError("an unconditional model cannot translate: it has no classes. Use a conditional config")
    job = _job(experiment)
    model = workdirs.open_model(experiment, workdir, batch_size=settings.batch_size)
    times = np.linspace(0.0, 1.0, settings.num_times)
    images_and_labels = (job.images, job.source, job.target)
    solved = {m: model.solve_translate(*images_and_labels, method=m, times=times) for m in TRANSLATIONS}
    judge = _judge(experiment)
    figures_by_method = {m: _measure(m, s, job, judge) for m, s in solved.items()}
    chosen = solved[settings.method]
    out = workdir / "translate"
    workdirs.save_arrays(
        out / "translations.npz",
        source_images=to_pixels(job.images),
        translated_images=to_pixels(chosen.y),
        source_labels=job.source,
        target_labels=job.target,
    )
    _draw(out, job, solved, settings.method, settings.shown, times)
    head = workdirs.report_head(model, "translate", seed=None)
    images = f"folder {settings.images}" if settings.images else f"split {experiment.data.test_split}"
    workdirs.write_json(
        out / "report.json", {**head, "method": settings.method, "images": images, "methods": figures_by_method}
    )
    print(f"translated {len(job.images)} images by {settings.method}; see {out / 'grid.png'} and {out / 'path.png'}")
    for name, f in figures_by_method.items():
        recognized = f.get("recognized_as_target")
        share = "" if recognized is None else f"recognized as the target {recognized:.1%}, "
        print(
            f"  {name:10s} {share}distance to own source {f['distance_to_own_source']:.2f}, to others of its class "
            f"{f['distance_to_other_sources']:.2f}, NFE {f['cost']['nfe_mean']:.0f}"
        )


def _job(experiment: Experiment) -> _Job:
    """The images to translate and their classes, from a folder or from the test split."""
    settings, classes = experiment.translate, experiment.spec.num_classes
    if settings.images is not None:
        if settings.source is None:
            raise UserError(
                "config.translate.images is a folder, so say its class: give --config.translate.source=CLASS"
            )
        pixels, levels = read_pictures(settings.images, experiment.spec.shape, settings.num_images), 256
        names = tuple(str(label) for label in range(classes))
        source = np.full(len(pixels), settings.source, np.int32)
    else:
        every = settings.source is None and settings.target is None
        split = experiment.source("test")
        test, names = read_all(split, settings.num_images if every else None), split.class_names
        wanted = test["label"] == settings.source if settings.source is not None else np.ones(len(test["label"]), bool)
        if settings.target is not None:
            wanted &= test["label"] != settings.target
        pixels, levels = test["image"][wanted][: settings.num_images], experiment.spec.levels
        source = test["label"][wanted][: settings.num_images]
    if not len(pixels):
        raise UserError(f"no test images of class {settings.source} that are not of class {settings.target} already")
    if settings.target is not None:
        target = np.full(len(pixels), settings.target, np.int32)
    else:  # every other class in turn
        target = ((source + 1 + np.arange(len(source)) % (classes - 1)) % classes).astype(np.int32)
    return _Job(to_unit_range_host(pixels, levels), source, target, names)


def _judge(experiment: Experiment) -> Any:
    """A classifier trained on the real training images, where the config wants one."""
    if not experiment.eval.classifier:
        return None
    from scoreflow_jax.metrics.recognition import Recognizer

    train = read_all(experiment.source("train"))
    return Recognizer(to_unit_range_host(train["image"], experiment.spec.levels), train["label"])


def _measure(method: str, solved: Solved, job: _Job, judge: Any) -> dict[str, Any]:
    own, others = distances_to_sources(solved.y, job.images, job.source)
    recognized = {} if judge is None else {"recognized_as_target": judge.share(solved.y, job.target)}
    return {
        **recognized,
        "distance_to_own_source": own,
        "distance_to_other_sources": others,
        "cost": solved.stats.summary(TRANSLATIONS[method].network_calls),
    }


def _draw(out: pathlib.Path, job: _Job, solved: dict[str, Solved], method: str, shown: int, times: np.ndarray) -> None:
    """grid.png: source and both translations. path.png: the chosen method along t, as the paper's figure 5d."""
    rows = range(min(shown, len(job.images)))
    captions = [f"{job.names[job.source[i]]} to {job.names[job.target[i]]}" for i in rows]
    grid = [np.stack([job.images[i], *(s.y[i] for s in solved.values())]) for i in rows]
    with workdirs.whole_file(out / "grid.png") as path:
        figures.save_rows(path, grid, captions=captions, heads=["source", *solved])
    states = solved[method].path
    assert states is not None  # times were given
    along = [*times[::-1], *times] if method == "latent" else list(times)
    heads = [f"t={t:.2f}" if i == 0 else f"{t:.2f}" for i, t in enumerate(along)]
    with workdirs.whole_file(out / "path.png") as path:
        figures.save_rows(path, [states[:, i] for i in rows], captions=captions, heads=heads)
