"""--mode=eval: what can be said of a model without an Inception network."""

import pathlib
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from scoreflow_jax import figures
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.commands.sample import balanced_labels
from scoreflow_jax.data import read_all
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.metrics.diversity import nearest_distance, within_class_std
from scoreflow_jax.metrics.frechet import Moments, frechet_distance
from scoreflow_jax.model import Model
from scoreflow_jax.pixels import to_pixels, to_unit_range_host
from scoreflow_jax.sampling.guidance import network_calls

# Not typing.HostImages: functions here take several sets, each of its own size.
Images = Float[np.ndarray, "_ height width channel"]

_FRECHET_LIMIT = 4096  # pixels; a covariance of more is large, slow and means little
_GRID_COLUMNS = 10


def run_command(experiment: Experiment, workdir: pathlib.Path) -> None:
    """Writes eval/<step>/{report.json, report.md, grid.png}."""
    settings = experiment.eval
    train, train_labels = _real(experiment, "train")
    test, test_labels = _real(experiment, "test")
    model = workdirs.open_model(experiment, workdir, batch_size=settings.batch_size)
    labels = balanced_labels(settings.num_images, tuple(range(experiment.num_classes)))
    noise = model.noise(jax.random.key(settings.seed), settings.num_images)
    guidance = experiment.sample.guidance
    solved = model.solve_generate(noise, labels, guidance=guidance)
    # What is judged are the pixels that a user gets, so rounded once.
    images = to_unit_range_host(to_pixels(solved.y), 256)

    generated = {
        "images": len(images),
        "guidance": guidance,
        "cost": solved.stats.summary(network_calls(guidance)),
        "frechet_distance_on_pixels": _frechet(images, test),
        **_spread(images, labels, test, test_labels),
        **_nearest(images, train, test),
        **(_recognition(experiment, images, labels, (train, train_labels), (test, test_labels))),
    }
    reconstruction = _reconstruction(model, test, test_labels, settings.num_reconstructions)
    out = workdir / "eval" / str(model.step)
    with workdirs.whole_file(out / "grid.png") as path:
        figures.save_grid(path, images[: _GRID_COLUMNS**2], columns=_GRID_COLUMNS)
    report = {
        **workdirs.report_head(model, "eval", seed=settings.seed),
        "reference": {"train_images": len(train), "test_images": len(test), "data": experiment.data.name},
        "generated": generated,
        "reconstruction": reconstruction,
    }
    workdirs.write_json(out / "report.json", report)
    table = _table(report)
    with workdirs.whole_file(out / "report.md") as path:
        path.write_text(
            f"# {experiment.name}, step {model.step}\n\n{table}\n\nSettings: report.json. Samples: grid.png.\n"
        )
    print(table)
    print(f"see {out / 'report.md'}")


def _real(experiment: Experiment, split: str) -> tuple[Images, np.ndarray]:
    examples = read_all(experiment.source(split))
    return to_unit_range_host(examples["image"], experiment.spec.levels), examples["label"]


def _frechet(images: Images, test: Images) -> float | str:
    """On pixels, against the test split; or why not."""
    size = images[0].size
    if size > _FRECHET_LIMIT:
        return f"not measured: {size} pixels are more than {_FRECHET_LIMIT}"
    if min(len(images), len(test)) <= size:
        return f"not measured: {min(len(images), len(test))} images are too few for a covariance of {size} pixels"
    flat = lambda x: x.reshape(len(x), -1)  # noqa: E731
    return frechet_distance(Moments().add(flat(images)), Moments().add(flat(test)))


def _spread(images: Images, labels: np.ndarray | None, test: Images, test_labels: np.ndarray) -> dict[str, float]:
    """Standard deviation within a class; without labels, over all."""
    if labels is None:
        labels, test_labels = np.zeros(len(images), int), np.zeros(len(test), int)
    ours, real = within_class_std(images, labels), within_class_std(test, test_labels)
    return {"within_class_std": ours, "within_class_std_real": real}


def _nearest(images: Images, train: Images, test: Images) -> dict[str, float]:
    """Distance to the nearest training image, beside that of held-out real images."""
    ours, real = nearest_distance(images, train), nearest_distance(test, train)
    return {"nearest_training_distance": ours, "nearest_training_distance_real": real}


def _recognition(
    experiment: Experiment,
    images: Images,
    labels: np.ndarray | None,
    train: tuple[Images, np.ndarray],
    test: tuple[Images, np.ndarray],
) -> dict[str, Any]:
    if not experiment.eval.classifier or labels is None:
        return {}
    from scoreflow_jax.metrics import recognition

    judge = recognition.Recognizer(*train)
    return {
        "recognized": judge.share(images, labels),
        "recognized_real": judge.share(*test),
        "classifier": recognition.DESCRIPTION,
    }


def _reconstruction(model: Model, test: Images, labels: np.ndarray, count: int) -> dict[str, Any]:
    """Encodes and decodes test images."""
    images, chosen = test[:count], labels[:count] if model.num_classes else None
    encoded = model.solve_encode(images, chosen)
    decoded = model.solve_generate(encoded.y, chosen)
    error = np.abs(decoded.y - images)
    return {
        "images": len(images),
        "mean_absolute_error": float(error.mean()),
        "max_absolute_error": float(error.max()),
        "encode_cost": encoded.stats.summary(),
        "decode_cost": decoded.stats.summary(),
    }


def _table(report: dict[str, Any]) -> str:
    """The figures as a Markdown table, real images beside generated ones."""
    g, r = report["generated"], report["reconstruction"]
    frechet = g["frechet_distance_on_pixels"]
    rows = []
    if "recognized" in g:
        rows.append(("recognized by a classifier", f"{g['recognized']:.1%}", f"{g['recognized_real']:.1%}", ""))
    rows += [
        (
            "Frechet distance on pixels to the test split",
            frechet if isinstance(frechet, str) else f"{frechet:.3f}",
            "",
            "",
        ),
        _compared("standard deviation within a class", g, "within_class_std"),
        _compared("distance to the nearest training image", g, "nearest_training_distance"),
        ("encode and decode, mean absolute error", f"{r['mean_absolute_error']:.1e}", "", ""),
        ("NFE", f"{g['cost']['nfe_mean']:.0f}", "", ""),
        ("images/s", f"{g['cost']['images_per_second']:.1f}", "", ""),
    ]
    head = [f"| {g['images']} images | generated | real, held out | ratio |", "|---|---|---|---|"]
    return "\n".join(head + [f"| {' | '.join(row)} |" for row in rows])


def _compared(name: str, g: dict[str, Any], field: str) -> tuple[str, str, str, str]:
    """A row of a figure of generated images, of real ones, and their ratio."""
    ours, real = g[field], g[f"{field}_real"]
    return name, f"{ours:.3f}", f"{real:.3f}", f"{ours / real:.2f}"
