"""Errors of log densities against the network calls that they cost: the density formula, the ODE, DDPM's bound.

Each estimate is held against its own limit, since a learned model's limits differ: the formula bounds the density of its SDE,
the ODE has another, the chain bounds a probability. The formula and the chain are unbiased, and their error is the standard error
that they state; the ODE's is the difference from its exact divergence at a tolerance of 1e-5. A derivative of the network along
one direction counts as a call.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from scoreflow_jax import files
from scoreflow_jax.evaluation.base import Data, Figures, Model, Part
from scoreflow_jax.evaluation.markdown import shown, table
from scoreflow_jax.settings.fields import field

_TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4)
_FINEST = 1e-5
_REPLICATES = 4  # so that few calls have several levels too; the root mean square over images needs no more

PLAIN = {"levels": "uniform", "placement": "independent", "antithetic": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "formula as printed": {**PLAIN, "reference": "none"},
    "with its control variate": {**PLAIN, "reference": "noise"},
    "stratified, antithetic": {"levels": "uniform", "reference": "noise"},
    "Gaussian reference": {"levels": "uniform"},
    "logistic levels": {},
    "tabulated levels": {"levels": "tabulated"},
}
"""What the formula is measured with, each with what reduces its variance besides the one before."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DensityCost(Part):
    """Error of densities against network calls: the formula, the ODE, DDPM's bound."""

    on: bool = field(False, "measure this part", was="density_cost")
    images: int = field(8, "test images", least=1, was="density_cost_images")
    calls: tuple[int, ...] = field(
        (16, 64, 256, 1024), "numbers of network calls for each example", least=1, was="density_cost_calls"
    )

    smoke = {"images": 4, "calls": (8, 16)}
    of_densities = True

    def measure(self, model: Model, data: Data, out: pathlib.Path) -> Figures:
        """Root mean square errors in nats over some test examples; draws density_cost.png."""
        from scoreflow_jax.evaluation.densities import HeldOut

        held = HeldOut.draw(model, data, self.images)
        rows = [*_formula_rows(self.calls, model, data, held), *_ode_rows(model, held)]
        if model.experiment.path.is_chain:
            rows += _chain_rows(self.calls, model, data, held)
        _draw(out / "density_cost.png", rows, model.experiment.name)
        return {"images": len(held.x), "finest": _FINEST, "rows": rows}

    @staticmethod
    def page(figures: Figures, report: Figures) -> str:
        """See `Part.page`."""
        del report
        rows = [
            [
                f"{r['method']}, {r['tolerance']:g}" if "tolerance" in r else r["method"],
                f"{r['calls']:.0f}",
                shown(r["error"], ".3g"),
                shown(r["seconds_per_image"], ".3g"),
            ]
            for r in figures["rows"]
        ]
        head = [
            f"root mean square over {figures['images']} held-out images",
            "network calls",
            "error, nats",
            "s per image",
        ]
        note = (
            f"The formula's and the bound's error is their standard error; the ODE's is against its exact divergence at "
            f"{figures['finest']:g}. A derivative along one direction is a call."
        )
        return f"## Densities: error against cost\n\n{table(head, rows)}\n\n{note}\n\n![error against cost](density_cost.png)"


def _formula_rows(numbers: tuple[int, ...], model: Model, data: Data, held: Any) -> list[dict[str, Any]]:
    from scoreflow_jax.evaluation.densities import formula_of, gaussian_like, table_for
    from scoreflow_jax.programs import FormulaDensity

    reference = gaussian_like(data)
    table = table_for(model, data, reference)
    rows = []
    for name, fields in VARIANTS.items():
        for calls in numbers:
            formula = dataclasses.replace(formula_of("logistic", calls, replicates=_REPLICATES), **fields)
            solved = model.solve(
                FormulaDensity(
                    key=held.key,
                    formula=formula,
                    reference=reference,
                    table=table if formula.levels == "tabulated" else None,
                ),
                held.x,
                held.labels,
            )
            rows.append(_row(name, float(formula.num_calls), _rms(solved.y[1]), solved.stats))
    return rows


def _ode_rows(model: Model, held: Any) -> list[dict[str, Any]]:
    """Exact divergences and one probe's, at several tolerances, and their differences from the finest."""
    from scoreflow_jax.programs import LogLikelihood

    solver, size = model.experiment.solver, int(np.prod(model.image_shape))

    def solve(tolerance: float, probe: str) -> Any:
        finer = dataclasses.replace(solver, method="dopri5", num_steps=None, rtol=tolerance, atol=tolerance)
        return model.with_solver(finer).solve(LogLikelihood(key=held.key, probe=probe), held.x, held.labels)

    exact, rows = solve(_FINEST, "exact").y[0], []
    for name, probe, calls in (("ODE, exact divergence", "exact", 1 + size), ("ODE, one probe", "rademacher", 2)):
        for tolerance in _TOLERANCES:
            solved = solve(tolerance, probe)
            spent = solved.stats.summary(calls)["nfe_mean"]
            rows.append(_row(name, spent, _rms(solved.y[0] - exact), solved.stats, tolerance=tolerance))
    return rows


def _chain_rows(numbers: tuple[int, ...], model: Model, data: Data, held: Any) -> list[dict[str, Any]]:
    """DDPM's bound by some of its steps."""
    from scoreflow_jax.evaluation.densities import chain_data
    from scoreflow_jax.programs import ChainBound

    path: Any = model.experiment.path
    (x, _), rows = chain_data(data, held), []
    for calls in numbers:
        each = min(max(calls // _REPLICATES, 2), path.num_scales)
        solved = model.solve(
            ChainBound(key=held.key, num_calls=each * _REPLICATES, replicates=_REPLICATES), x, held.labels
        )
        rows.append(_row("DDPM's bound", float(each * _REPLICATES), _rms(solved.y[1]), solved.stats))
    return rows


def _row(method: str, calls: float, error: float, stats: Any, **more: Any) -> dict[str, Any]:
    seconds = stats.seconds / stats.images
    return {"method": method, "calls": calls, "error": error, "seconds_per_image": seconds, **more}


def _rms(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _draw(path: pathlib.Path, rows: list[dict[str, Any]], name: str) -> None:
    from scoreflow_jax import plots

    curves = []
    for method in dict.fromkeys(r["method"] for r in rows):
        points = sorted((r["calls"], r["error"]) for r in rows if r["method"] == method)
        dashed = not method.startswith(("ODE", "DDPM"))
        curves.append(plots.Curve(method, [p[0] for p in points], [p[1] for p in points], dashed=dashed))
    title = f"{name}: error of a log density against its cost"
    axes = plots.Axes(title, "network calls for each example", "error, nats (root mean square)", log_x=True, log_y=True)
    with files.whole_file(path) as temporary:
        plots.save_curves(temporary, curves, axes)
