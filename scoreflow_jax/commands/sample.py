"""--mode=sample: generates images."""

import pathlib
from typing import Any

import jax
import numpy as np

from scoreflow_jax import figures, files
from scoreflow_jax.commands import points, reports
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.densities import WARNING, of_states, trained_on_dequantized
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.model import Model
from scoreflow_jax.programs import LogLikelihood
from scoreflow_jax.sampling import Solved

_GRID_ROWS = 20  # of grid.png at the most; samples.npz holds all


def run_command(experiment: Experiment, workdir: pathlib.Path, out: str | None = None) -> None:
    """Writes sample/{samples.npz, grid.png, report.json}.

    Args:
        experiment: built from the config at hand.
        workdir: the run's folder.
        out: the folder to write to; None: sample/ in the workdir.
    """
    settings = experiment.sample
    model = workdirs.open_model(experiment, workdir, batch_size=settings.batch_size, with_data=False)
    folder = reports.out_folder("sample", workdir, "sample", out)
    labels = balanced_labels(settings.num_images, settings.labels or tuple(range(experiment.num_classes)))
    key = jax.random.key(settings.seed)
    if settings.likelihood and settings.guidance != 1.0:
        raise UserError(
            "a guided drift has no likelihood: set config.sample.likelihood or config.sample.guidance, not both"
        )
    calls = experiment.guided_calls(settings.guidance)
    extra: dict[str, np.ndarray] = {}
    if settings.likelihood:
        if not experiment.sampler.is_ode:
            raise UserError(
                f"config.sampler.name is {experiment.sampler.name!r}, but likelihoods are the ODE's: set config.sampler.name or "
                "config.sample.likelihood, not both"
            )
        noise = model.source_points(key, settings.num_images)
        solved, extra = _with_likelihood(model, workdir, noise, labels)
    else:
        solved = model.solve_samples(key, settings.num_images, labels, guidance=settings.guidance)
    stored = labels if labels is not None else np.zeros(len(solved.y), np.int32)
    what = points.noun(experiment)
    examples = points.stored(experiment, workdir, solved.y)
    files.save_arrays(folder / "samples.npz", {what: examples, "labels": stored, **extra})
    if not experiment.spec.is_points:
        with files.whole_file(folder / "grid.png") as path:
            figures.save_grid(path, solved.y[: _GRID_ROWS * settings.columns], columns=settings.columns)
    else:
        points.point_plots(experiment, workdir).samples(folder / "grid.png", solved.y, labels)
    head = reports.report_head(model, "sample", seed=settings.seed, by_sampler=not settings.likelihood)
    facts: dict[str, Any] = {"guidance": settings.guidance, "cost": solved.stats.summary(calls)}
    if settings.likelihood:
        facts["likelihood"] = _what_likelihood(model)
    files.write_json(folder / "report.json", {**head, **facts})
    print(
        f"generated {len(solved.y)} {what}: {reports.cost_line(solved.stats, calls)}; see {reports.seen(folder / 'grid.png')}"
    )


def _with_likelihood(
    model: Model, workdir: pathlib.Path, noise: Any, labels: Any
) -> tuple[Solved, dict[str, np.ndarray]]:
    """Samples and, for samples.npz, their log densities, those of points in the table's own units, with errors over probes."""
    settings = model.experiment.sample
    key, probes = jax.random.key(settings.seed), settings.likelihood_probes
    solved = model.solve(LogLikelihood(key=key, probe=_probe(model), probes=probes, generating=True), noise, labels)
    density, solved.y, error = solved.y
    units = workdirs.read_units(workdir) if model.experiment.spec.is_points else None
    density = density if units is None else density - np.float32(units.log_volume)
    errors = {"log_likelihood_error": error} if probes > 1 else {}
    return solved, {"log_likelihood": density, **errors}


def _probe(model: Model) -> str:
    return "exact" if model.experiment.spec.is_points else "rademacher"


def _what_likelihood(model: Model) -> dict[str, Any]:
    if model.experiment.spec.is_points:
        return {"unit": "nats, a density in the table's own units", "probe": _probe(model), **of_states(model)}
    warning: dict[str, Any] = {} if trained_on_dequantized(model) else {"warning": WARNING}
    probes = model.experiment.sample.likelihood_probes
    return {
        "unit": "nats, a density on [-1, 1]",
        "probe": _probe(model),
        "probes": probes,
        **of_states(model),
        **warning,
    }


def balanced_labels(count: int, classes: tuple[int, ...]) -> np.ndarray | None:
    """Repeats the classes to `count` labels; None without classes."""
    return np.resize(np.asarray(classes, np.int32), count) if classes else None
