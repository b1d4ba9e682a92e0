"""Quality against network calls, over solvers, numbers of steps and tolerances."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from scoreflow_jax import files, plots
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.statistics import covariance_of
from scoreflow_jax.metrics.frechet import frechet_distance
from scoreflow_jax.metrics.kernel import kernel_distance
from scoreflow_jax.model import Model
from scoreflow_jax.ode import METHODS, Solver
from scoreflow_jax.progress import progress
from scoreflow_jax.sampling.guidance import network_calls

_FINEST = 1e-6  # tolerance of the solution that the others' images are compared with


def measure_sweep(model: Model, data: Data, out: pathlib.Path) -> dict[str, Any]:
    """Generates from the same noise with each solver; draws sweep.png."""
    settings, base = data.settings, model.experiment.solver
    count = model.at_most(settings.sweep_images)
    noise = model.source_points(jax.random.key(settings.seeds[0]), count)
    labels = data.labels(count)
    guidance = model.experiment.sample.guidance
    finest = dataclasses.replace(base, method="dopri5", num_steps=None, rtol=_FINEST, atol=_FINEST)
    exact = model.with_solver(finest).solve_generate(noise, labels, guidance=guidance, denoise=True).y
    measured, distance_of = _distance(data, count)
    rows = []
    solvers = _solvers(settings, base)
    bar = progress("sweep", len(solvers), " solvers")
    for name, value, solver in solvers:
        bar.update()
        try:
            solved = model.with_solver(solver).solve_generate(noise, labels, guidance=guidance, denoise=True)
        except UserError as error:  # a method of low order may run out of steps; the others are still of use
            rows.append({"method": name, **value, "failed": str(error)})
            continue
        cost = solved.stats.summary(network_calls(guidance))
        features = data.extractor(data.experiment.scaling.to_pixels(solved.y))
        rows.append(
            {
                "method": name,
                **value,
                "nfe": cost["nfe_mean"],
                "distance": distance_of(features),
                "rms_difference": float(np.sqrt(np.mean(np.square(solved.y - exact, dtype=np.float64)))),
                "seconds_per_image": cost["seconds"] / cost["images"],
            }
        )
    bar.close()
    limit = distance_of(data.extractor(data.experiment.scaling.to_pixels(exact)))
    _draw(out / "sweep.png", rows, measured, limit, model.experiment.name)
    told = {"images": count, "labels": data.labels_told, "measured": measured}
    return {**told, "finest": {"tolerance": _FINEST, "distance": limit}, "rows": rows}


def _solvers(settings: Any, base: Solver) -> list[tuple[str, dict[str, Any], Solver]]:
    """Every method with every number of steps, then those with an error estimate at every tolerance."""
    fixed = [
        (m, {"steps": n}, dataclasses.replace(base, method=m, num_steps=n, max_steps=max(n, base.max_steps)))
        for m in settings.sweep_methods
        for n in settings.sweep_steps
    ]
    adaptive = [
        (m, {"tolerance": t}, dataclasses.replace(base, method=m, num_steps=None, rtol=t, atol=t))
        for m in settings.sweep_methods
        if m in METHODS and m != "euler"
        for t in settings.sweep_tolerances
    ]
    return fixed + adaptive


def _distance(data: Data, count: int) -> tuple[str, Any]:
    """The Frechet distance where there are enough images for it, else KID; with its name."""
    reference = data.reference
    space = "FID" if data.extractor.name == "inception" else f"Frechet distance on {data.extractor.facts['extractor']}"
    if reference.gaussian is not None and count > data.extractor.size:
        known = reference.gaussian

        def frechet(features: Float[np.ndarray, "batch features"]) -> float:
            """To the reference."""
            own = covariance_of(features)
            assert own is not None
            return frechet_distance(own, known)

        return f"{space}, {count} images", frechet
    real = reference.features
    if real is None:
        return "nothing: too few images for FID, and the reference has no features for KID", lambda _: None
    return f"KID, {count} images", lambda features: kernel_distance(features, real).mean


def _draw(path: pathlib.Path, rows: list[dict[str, Any]], measured: str, limit: float | None, name: str) -> None:
    done = [r for r in rows if "failed" not in r]
    if limit is None or not done:
        return
    curves = []
    for kind in ("steps", "tolerance"):
        for method in dict.fromkeys(r["method"] for r in done if kind in r):
            points = sorted((r["nfe"], r["distance"]) for r in done if r["method"] == method and kind in r)
            label = f"{method}, {'equal steps' if kind == 'steps' else 'adaptive'}"
            x, y = [p[0] for p in points], [p[1] for p in points]
            curves.append(plots.Curve(label, x, y, group=method, dashed=kind == "tolerance"))
    axes = plots.Axes(
        f"{name}: distance to the reference against network calls",
        "network calls (NFE)",
        measured,
        log_x=True,
        log_y=0 < 20 * min(r["distance"] for r in done) < max(r["distance"] for r in done),
        level=(f"dopri5 at {_FINEST:g}", limit),
    )
    with files.whole_file(path) as temporary:
        plots.save_curves(temporary, curves, axes)
