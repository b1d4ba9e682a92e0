"""--mode=publish: makes a folder of a run's model, to be shared as it is (published.py), and uploads it if asked to."""

import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from scoreflow_jax import figures, files, hub, published, sums
from scoreflow_jax.commands import reports
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.commands.sample import balanced_labels
from scoreflow_jax.commands.status import read_records
from scoreflow_jax.commands.teacher import open_teacher
from scoreflow_jax.data import FACTS
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.markdown import table
from scoreflow_jax.evaluation.report import manifest, without_pictures
from scoreflow_jax.evaluation.report import summary as summary_of
from scoreflow_jax.experiment import Experiment, build
from scoreflow_jax.loading import load_model
from scoreflow_jax.model import KEPT_GRID, Model
from scoreflow_jax.parallel import make_layout
from scoreflow_jax.plain_config import read_config, to_plain, without_places
from scoreflow_jax.user_paths import user_path

_COMPARED = 64  # images, of the rounded weights against the whole ones


def run_command(experiment: Experiment, workdir: pathlib.Path, out: str, push: str | None = None) -> None:
    """Writes model.safetensors, config.json, data.json, README.md, preview.png and SHA256SUMS.

    Args:
        experiment: of the config at hand.
        workdir: of the run.
        out: the folder to write, new, or of a model that was published before.
        push: owner/name on the hub, to upload it to; None: it is not.

    Raises:
        UserError: no run there, a folder with other files, or an upload that failed.
    """
    if push is not None:
        hub.check_repository(push)
    folder = user_path(out)
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not published.is_published(folder))):
        raise UserError(f"{out} is there and holds something else than a model: give --out a new folder")
    settings = experiment.publish
    # As the run was trained: a solver that the command names is for the preview alone.
    model = workdirs.open_model(experiment, workdir, batch_size=settings.batch_size, with_data=False)
    folder = reports.out_folder("publish", workdir, "", out)
    about = {"name": experiment.name, "parameters_sha256": model.fingerprint}
    published.write_weights(folder, model.params, step=model.step, dtype=settings.dtype, about=about)
    files.write_json(folder / "config.json", without_places(model.trained_config))
    for name in (FACTS, KEPT_GRID):
        (folder / name).unlink(missing_ok=True)
    if (workdir / FACTS).is_file():
        shutil.copyfile(workdir / FACTS, folder / FACTS)
    published.finish(folder)  # before the model in it is loaded, which checks them
    rounded = load_model(experiment, folder, batch_size=settings.batch_size)
    if (
        kept := model.kept_grid()
    ) is not None:  # the rounded weights' too: rounding moves their errors by less than grids differ
        sums.write_json(folder / KEPT_GRID, {**kept, "parameters_sha256": rounded.fingerprint})
    preview, difference = _generate(model, rounded)
    (folder / published.PREVIEW).unlink(missing_ok=True)
    if not experiment.spec.is_points:
        with files.whole_file(folder / published.PREVIEW) as path:
            figures.save_grid(path, preview, columns=settings.columns)
    with files.whole_file(folder / published.CARD) as path:
        path.write_text(card(rounded, workdir, push, difference), encoding="utf-8")
    published.finish(folder)
    size = sum((folder / name).stat().st_size for name in sums.files_below(folder))
    print(
        f"wrote {folder}: {size / 1e6:.1f} MB, weights of step {model.step} in {settings.dtype}, with which the same noise gives "
        f"images {difference:.1e} apart (root mean square, in [-1, 1])"
    )
    if push is not None:
        print(f"uploaded to {hub.push(folder, push, (*published.OWN, sums.SUMS))}")


def _generate(model: Model, rounded: Model) -> tuple[np.ndarray, float]:
    """Samples for the preview, and how far the rounded weights' are from the whole ones'."""
    settings, e = model.experiment.publish, model.experiment
    count = settings.columns * (e.num_classes or settings.columns)
    labels = balanced_labels(count, tuple(range(e.num_classes)))
    labels = None if labels is None else np.sort(labels)
    key = jax.random.key(0)
    made = rounded.solve_samples(key, count, labels).y
    first = min(count, _COMPARED)
    exact = model.solve_samples(key, first, None if labels is None else labels[:first]).y
    return made, float(np.sqrt(np.mean(np.square(made[:first] - exact, dtype=np.float64))))


def card(model: Model, workdir: pathlib.Path, place: str | None, difference: float) -> str:
    """The model card, made from the run and from its newest evaluation.

    Args:
        model: as it was published.
        workdir: of the run.
        place: owner/name on the hub, for the lines on how to use it; None: a folder.
        difference: of images by the rounded weights.
    """
    e, config, settings = model.experiment, model.trained_config, model.experiment.publish
    names = workdirs.class_names(e, workdir)
    where = f"{hub.SCHEME}{place}" if place else "FOLDER"
    shape = "x".join(map(str, e.spec.shape))
    what = "points of a table" if e.spec.is_points else f"{shape} images"
    kinds = (
        f" of {e.num_classes} classes ({', '.join(names[:20])}{', ...' if len(names) > 20 else ''})" if names else ""
    )
    seen = model.step * config["train"]["batch_size"]
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(model.params))
    labels = [i % e.num_classes for i in range(3)] if e.num_classes else None
    lines = [
        "---",
        "library_name: scoreflow_jax",
        *([f"license: {settings.license}"] if settings.license else []),
        "tags: [scoreflow_jax, jax, flow-matching, image-generation]",
        "---",
        "",
        f"# {e.name}",
        "",
        f"A drift f(x, t, c) whose ODE carries noise to {what}{kinds} and back: it generates, encodes, translates between "
        f"classes, interpolates and gives likelihoods. {size:,} parameters, the average over training, in {settings.dtype}"
        + ("; it also jumps along the ODE (method flow_map).\n" if e.jumps else ".\n"),
        *([f"![samples]({published.PREVIEW})\n"] if not e.spec.is_points else []),
        "## Use",
        "",
        "```python",
        "import scoreflow_jax",
        f'model = scoreflow_jax.load("{where}")',
        f"images = model.generate(0, {f'labels={labels}' if labels else 'num_images=3'})  # in [-1, 1]",
        *([f"other = model.translate(images, source={labels}, target=1)"] if e.num_classes > 1 else []),
        "```",
        "",
        f"or `python main.py --workdir={where} --mode=sample` (translate, interpolate, eval likewise).",
        *(
            [
                "",
                "That solves the ODE as in training; `--config.solver.preset=fast` does it in 20 network calls, and "
                "`--config.solver.method=flow_map --config.solver.num_steps=1` in one jump each way, or in more.",
            ]
            if e.jumps
            else []
        ),
        "",
        "## Training",
        "",
        f"- Data: {config['data']['name']}, its training split alone. {settings.data_terms}".rstrip(),
        f"- {seen:,} examples seen: {model.step:,} steps of {config['train']['batch_size']}{_hours(workdir, config)}.",
        *_teacher(workdir),
        "- Command: `python main.py --config=config.json --mode=train --workdir=RUN`, where config.json is the one beside this "
        "card; it holds every setting.",
        f"- The weights are rounded to {settings.dtype}: the same noise gives images {difference:.1e} apart (root mean square, "
        "in [-1, 1])."
        if settings.dtype != "float32"
        else "- The weights are float32, as they were averaged.",
        "",
        *_figures(workdir, model.step),
        "## Limits",
        "",
        settings.limits
        or "It knows the classes above and nothing else. What it makes of an image is a guess of another like it, not a fact.",
        "",
    ]
    return "\n".join(lines)


def _teacher(workdir: pathlib.Path) -> list[str]:
    """A line on what a flow map learned from, and on what that had seen where its folder is at hand."""
    run = build(to_plain(read_config(workdir)))
    known = run.objective.teacher_run[1]
    if known is None:
        return []
    seen = ""
    try:
        _, teacher = open_teacher(run, make_layout(), workdir)
    except UserError:  # moved, or gone on with: the fingerprint says which it was
        teacher = None
    if teacher is not None:
        batch = teacher.trained_config["train"]["batch_size"]
        seen = f", which had seen {teacher.step * batch:,} examples in {teacher.step:,} steps of {batch}"
    return [f"- It learned from a teacher (weights of sha256 {known[:12]}){seen}; these examples come on top."]


def _hours(workdir: pathlib.Path, config: dict[str, Any]) -> str:
    """How long the steps took that metrics.jsonl knows of; empty where it knows none."""
    found = [r for r in read_records(workdir / "metrics.jsonl") if r.get("images_per_second")]
    steps = np.diff([0, *(r["step"] for r in found)])
    seconds = sum(
        n * config["train"]["batch_size"] / r["images_per_second"] for n, r in zip(steps, found, strict=True) if n > 0
    )
    return f", {seconds / 3600:.1f} hours" if seconds else ""


def _figures(workdir: pathlib.Path, step: int) -> list[str]:
    """The newest evaluation of this step, else of another; a sentence where there is none."""
    found = [path / "report.json" for path in (workdir / "eval").glob("*") if (path / "report.json").is_file()]
    read = [sums.read_object(path)[0] for path in sorted(found, key=lambda path: path.stat().st_mtime)]
    chosen = ([r for r in read if r.get("step") == step] or read)[-1:]
    if not chosen:
        return ["## Figures", "", "It has not been evaluated (`--mode=eval`).", ""]
    report = chosen[0]
    older = "" if report["step"] == step else f" These are of step {report['step']:,}, not of this one."
    text = without_pictures(summary_of(report)).replace("\n## ", "\n### ")
    text = "### " + text.removeprefix("## ")
    return [
        "## Figures",
        "",
        f"By `--mode=eval`, of the weights before they were rounded.{older}",
        "",
        text,
        "",
        "### How they were measured",
        "",
        table(["", ""], manifest(report)),
        "",
    ]
