"""Quality against network calls, over solvers, numbers of steps and tolerances."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float

from scoreflow_jax import files
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.base import Data, Figures, Model, Part
from scoreflow_jax.evaluation.markdown import label_note, shown, table
from scoreflow_jax.settings.fields import FieldError, field
from scoreflow_jax.settings.solve import WITHOUT_ESTIMATE, Grid, Method

_FINEST = 1e-6  # tolerance of the solution that the others' images are compared with


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(Part):
    """Distance to the reference against network calls, by solver."""

    on: bool = field(False, "measure this part", was="sweep")
    images: int = field(1000, "images that each solver generates", least=2, was="sweep_images")
    methods: tuple[Method, ...] = field(
        ("euler", "heun", "midpoint", "dopri5", "tsit5"), "methods to compare", was="sweep_methods"
    )
    steps: tuple[int, ...] = field(
        (5, 10, 20, 50, 100), "numbers of equal steps, each tried with every method", least=1, was="sweep_steps"
    )
    tolerances: tuple[float, ...] = field(
        (1e-2, 1e-3, 1e-4, 1e-5),
        "tolerances, each tried with every method that has an error estimate",
        above=0,
        was="sweep_tolerances",
    )
    calls: tuple[int, ...] = field(
        (),
        "numbers of network calls, each tried with every method of which steps make just so many",
        least=1,
        added=True,
    )
    grids: tuple[Grid, ...] = field(
        ("uniform",), "grids of fixed steps, each tried with every number of steps and of calls", added=True
    )

    smoke = {"images": 20, "steps": (2, 4), "tolerances": (1e-2,)}
    compares_features = True

    def __post_init__(self) -> None:
        """Refuses a sweep over nothing."""
        super().__post_init__()
        if self.on and not (self.methods and (self.steps or self.calls or self.tolerances)):
            raise FieldError("methods or all of steps, calls and tolerances are empty: nothing to sweep")
        if self.on and (self.steps or self.calls) and not self.grids:
            raise FieldError("grids is empty, expected 'uniform' at the least for steps and calls")

    def measure(self, model: Model, data: Data, out: pathlib.Path) -> Figures:
        """Generates from the same noise with each solver; draws sweep.png."""
        import jax

        from scoreflow_jax.paths.guidance import network_calls
        from scoreflow_jax.programs import Generate
        from scoreflow_jax.progress import progress

        base = model.experiment.solver
        count = model.at_most(self.images)
        noise = model.source_points(jax.random.key(data.seed), count)
        labels = data.labels(count)
        guidance = model.experiment.sample.guidance
        finest = dataclasses.replace(base.adaptive, method="dopri5", rtol=_FINEST, atol=_FINEST)
        exact = model.with_solver(finest).solve(Generate(guidance, denoise=True), noise, labels).y
        measured, distance_of = _distance(data, count)
        rows = []
        solvers = self._solvers(base)
        bar = progress("sweep", len(solvers), " solvers")
        for name, value, solver in solvers:
            bar.update()
            try:
                solved = model.with_solver(solver).solve(Generate(guidance, denoise=True), noise, labels)
            except UserError as error:  # a method of low order may run out of steps; the others are still of use
                rows.append({"method": name, **value, "failed": str(error)})
                continue
            cost = solved.stats.summary(network_calls(guidance, name))
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
        facts = {"images": count, "labels": data.label_rule, "measured": measured}
        return {**facts, "finest": {"tolerance": _FINEST, "distance": limit}, "rows": rows}

    def _solvers(self, base: Any) -> list[tuple[str, dict[str, Any], Any]]:
        """Every method with every number of steps, then those with an error estimate at every tolerance."""
        numbers = {m: sorted({*self.steps, *_with_calls(base, m, self.calls)}) for m in self.methods}
        fixed: list[tuple[str, dict[str, Any], Any]] = [
            (m, {"steps": n, "grid": g}, base.fixed(m, n, g))
            for m in self.methods
            for g in self.grids
            for n in numbers[m]
        ]
        adaptive: list[tuple[str, dict[str, Any], Any]] = [
            (m, {"tolerance": t}, dataclasses.replace(base.adaptive, method=m, rtol=t, atol=t))
            for m in self.methods
            if m not in WITHOUT_ESTIMATE
            for t in self.tolerances
        ]
        return fixed + adaptive

    @staticmethod
    def page(figures: Figures, report: Figures) -> str:
        """See `Part.page`."""
        del report
        rows = [
            [
                r["method"],
                _named(r),
                *(
                    ["", "failed", "", ""]
                    if "failed" in r
                    else [
                        f"{r['nfe']:.0f}",
                        shown(r["distance"], ".4g"),
                        f"{r['rms_difference']:.2e}",
                        f"{r['seconds_per_image']:.2g}",
                    ]
                ),
            ]
            for r in figures["rows"]
        ]
        finest = figures["finest"]
        head = [
            "method",
            "steps or tolerance",
            "NFE",
            figures["measured"],
            "RMS difference from the finest",
            "s per image",
        ]
        end = f"\n\nThe finest is dopri5 at {finest['tolerance']:g}: {shown(finest['distance'], '.4g')}{label_note(figures)}."
        if finest["distance"] is not None and any("failed" not in r for r in figures["rows"]):
            end += "\n\n![sweep](sweep.png)"
        return "## Distance against network calls\n\n" + table(head, rows) + end


def _with_calls(base: Any, method: Method, calls: tuple[int, ...]) -> list[int]:
    """Numbers of steps of a method that make one of these numbers of calls."""
    return [n for n in range(1, max(calls, default=0) + 1) if base.fixed(method, n).fixed_calls() in calls]


def _named(row: dict[str, Any]) -> str:
    """How a row's steps are chosen; reports of before know one grid."""
    if "steps" not in row:
        return f"{row['tolerance']:g}"
    grid = row.get("grid", "uniform")
    return f"{row['steps']} steps" + f", {grid}" * (grid != "uniform")


def _distance(data: Data, count: int) -> tuple[str, Any]:
    """The Frechet distance where there are enough images for it, else KID; with its name."""
    from scoreflow_jax.evaluation.statistics import covariance_of
    from scoreflow_jax.metrics.frechet import frechet_distance
    from scoreflow_jax.metrics.kernel import kernel_distance

    reference = data.reference
    space = "FID" if data.extractor.name == "inception" else f"Frechet distance on {data.extractor.facts['extractor']}"
    if reference.gaussian is not None and count > data.extractor.size:
        known = reference.gaussian

        def frechet(features: Float[np.ndarray, "batch features"]) -> float:
            """The distance to the reference."""
            own = covariance_of(features)
            assert own is not None
            return frechet_distance(own, known)

        return f"{space}, {count} images", frechet
    real = reference.features
    if real is None:
        return "nothing: too few images for FID, and the reference has no features for KID", lambda _: None
    return f"KID, {count} images", lambda features: kernel_distance(features, real).mean


def _way(row: dict[str, Any]) -> tuple[str, str]:
    """Method, and what chooses its steps."""
    by = {"uniform": "equal steps"}.get(row["grid"], f"grid {row['grid']}") if "steps" in row else "adaptive"
    return row["method"], by


def _draw(path: pathlib.Path, rows: list[dict[str, Any]], measured: str, limit: float | None, name: str) -> None:
    done = [r for r in rows if "failed" not in r]
    if limit is None or not done:
        return
    from scoreflow_jax import plots

    curves = []
    for way in dict.fromkeys(_way(r) for r in done):
        points = sorted((r["nfe"], r["distance"]) for r in done if _way(r) == way)
        x, y = [p[0] for p in points], [p[1] for p in points]
        curves.append(plots.Curve(", ".join(way), x, y, group=way[0], dashed=way[1] != "equal steps"))
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
