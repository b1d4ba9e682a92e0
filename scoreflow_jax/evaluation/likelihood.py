"""Bits/dim of held-out images, of points of a table nats: by the ODE, by the density formula, by DDPM's bound."""

import dataclasses
import pathlib
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from scoreflow_jax.evaluation.base import Column, Data, Figures, Model, Part
from scoreflow_jax.evaluation.markdown import plus_minus, table
from scoreflow_jax.host_typing import HostState
from scoreflow_jax.settings.fields import FieldError, field

Values = Float[np.ndarray, " batch"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Likelihood(Part):
    """Bits/dim of the test split; of points their mean log likelihood in nats."""

    on: bool = field(True, "measure this part, if `by` says how", added=True)
    by: Literal["none", "ode", "density", "both"] = field(
        "none",
        "how: by the divergence of the ODE, by the density formula (and DDPM's bound), or both",
        was="likelihood",
    )
    images: int = field(1000, "test images", least=1, was="likelihood_images")
    probe: Literal["rademacher", "gaussian", "exact"] = field(
        "rademacher",
        "random vectors that the divergence is estimated with; exact: the whole trace",
        was="likelihood_probe",
    )
    probes: int = field(
        1,
        "random vectors for each image; with several the error that they leave is stated",
        least=1,
        was="likelihood_probes",
    )
    density_calls: int = field(
        256, "network calls of the density formula for each example", least=2, was="density_calls"
    )

    smoke = {"images": 20, "density_calls": 16}
    of_densities = True

    @property
    def wanted(self) -> bool:
        """Whether it is on and `by` says how."""
        return self.on and self.by != "none"

    def __post_init__(self) -> None:
        """Refuses several probes of what needs none."""
        super().__post_init__()
        if self.probe == "exact" and self.probes > 1:
            raise FieldError(f"probes is {self.probes}, but probe is 'exact', which needs none: set it to 1")

    columns = (Column("bits_per_dim", "bits/dim", ".3f"),)

    def measure(self, model: Model, data: Data, out: pathlib.Path) -> Figures:
        """Bits/dim of test images, uniformly dequantized once, or nats of test points, with the standard error over them.

        The density formula's figures stand under "formula", with the gap to the ODE where both are measured; those of DDPM's
        bound, where the path is DDPM's, under "chain".
        """
        from scoreflow_jax.evaluation.densities import WARNING, HeldOut, in_unit, of_states, trained_on_dequantized
        from scoreflow_jax.programs import LogLikelihood

        del out
        spec = data.experiment.spec
        held = HeldOut.draw(model, data, self.images)
        figures: dict[str, Any] = {"of": len(held.x)}
        ode = None
        if self.by in ("ode", "both"):
            kind, probes = self.probe, self.probes
            solved = model.solve(LogLikelihood(key=held.key, probe=kind, probes=probes), held.x, held.labels)
            ode = in_unit(solved.y[0], data)
            cost = solved.stats.summary()
            figures |= _summary(ode, data) | {"probe": kind, "evaluations": cost["nfe_mean"], "cost": cost}
            figures |= of_states(model)
            if kind != "exact":
                figures["probes"] = probes
            if probes > 1:
                figures |= _probe_errors(solved.y[2], data)
        if self.by in ("density", "both"):
            figures["formula"] = _by_formula(self.density_calls, model, data, held, ode)
            if model.experiment.path.is_chain:
                figures["chain"] = _by_chain(model, data, held)
        if spec.is_points:
            return {**figures, "unit": "mean log density of held-out points in the table's own units, in nats"}
        figures |= {"uniform": float(np.log2(spec.levels)), "dequantization": "uniform, (k + u) / levels, drawn once"}
        return figures if trained_on_dequantized(model) else {**figures, "warning": WARNING}

    @staticmethod
    def page(figures: Figures, report: Figures) -> str:
        """See `Part.page`."""
        del report
        rows = []
        if "probe" in figures:
            note = (
                f"± {figures['probe_error_per_image']:.4f} for one; ± {figures['probe_error']:.4f} by probes"
                if "probe_error" in figures
                else ""
            )
            rows.append(
                ["ODE", _density(figures), f"{figures['evaluations']:.0f} evaluations, {_probing(figures)}", note]
            )
        if "formula" in figures:
            f = figures["formula"]
            gap = f"; less the ODE {plus_minus(f['gap_to_ode'], f['gap_standard_error'])}" if "gap_to_ode" in f else ""
            beyond = (
                f"; {plus_minus(f['beyond_the_path'], f['beyond_error'])} of it beyond the path's end"
                if f.get("beyond_the_path")
                else ""
            )
            note = f"± {f['estimation_error']:.4f} for one{beyond}{gap}"
            rows.append(["density formula, a bound of the SDE", _density(f), f"{f['calls']} calls", note])
        if "chain" in figures:
            c = figures["chain"]
            rows.append([f"DDPM's bound, of {c['of']}", _density(c), f"{c['calls']} calls", c["variance"]])
        if "uniform" in figures:
            unit = f"bits/dim of {figures['of']} held-out images (a uniform model has {figures['uniform']:.3f}"
        else:
            unit = f"nats of {figures['of']} held-out points (log densities in the table's own units: the higher the better"
        text = table([f"{unit}; ± standard error)", "", "cost", ""], rows)
        if "of_states" in figures:
            text += f"\n\n{_of_states(figures['of_states'], 'uniform' in figures)}"
        return "## Likelihood\n\n" + text + (f"\n\n**Warning**: {figures['warning']}." if "warning" in figures else "")

    @staticmethod
    def for_study(figures: Figures) -> Figures:
        """Bits/dim, or nats of points; see `Part.for_study`."""
        value = figures.get("bits_per_dim", figures.get("nats"))  # neither where the ODE's was not asked for
        return {} if value is None else {"bits_per_dim": float(value)}


def _by_formula(calls: int, model: Model, data: Data, held: Any, ode: Values | None) -> dict[str, Any]:
    from scoreflow_jax.density_formula import tail
    from scoreflow_jax.evaluation.densities import (
        PILOT_IMAGES,
        PILOT_LEVELS,
        formula_of,
        gaussian_like,
        in_unit,
        path_of,
        table_for,
    )
    from scoreflow_jax.programs import FormulaDensity

    formula = dataclasses.replace(formula_of(data.settings.density_levels, calls), tail=True)
    reference = gaussian_like(data)
    table = table_for(model, data, reference) if formula.levels == "tabulated" else None
    solved = model.solve(
        FormulaDensity(key=held.key, formula=formula, reference=reference, table=table), held.x, held.labels
    )
    size = int(np.prod(data.experiment.spec.shape))
    beyond, beyond_error = tail(solved.y[2], held.x, path_of(model), formula.reference, reference)
    beyond = 0.0 if np.isnan(beyond) else beyond  # nothing is known of it
    values = in_unit(solved.y[0] + size * beyond, data)
    sign = 1.0 if data.experiment.spec.is_points else -1.0
    figures = _summary(values, data) | {
        "beyond_the_path": sign * size * beyond / _unit(data),
        "beyond_error": None if np.isnan(beyond_error) else size * beyond_error / _unit(data),
        "calls": formula.num_calls + formula.tail_calls,
        "pilot_calls": 2 * PILOT_LEVELS * PILOT_IMAGES if table is not None else 0,
        "estimation_error": _root_mean_square(solved.y[1]) / _unit(data),
        **dataclasses.asdict(formula),
        "cost": solved.stats.summary(),
    }
    if ode is not None:
        gap = values - ode
        figures |= {"gap_to_ode": float(gap.mean()), "gap_standard_error": _standard_error(gap)}
    return figures


def _by_chain(model: Model, data: Data, held: Any) -> dict[str, Any]:
    """The bound on what the model was trained on: levels, of whose probability it is, or dequantized images, of whose density."""
    from scoreflow_jax.evaluation.densities import chain_data, in_unit
    from scoreflow_jax.programs import ChainBound

    x, of_levels = chain_data(data, held)
    variance = model.experiment.sampler.variance
    solved = model.solve(ChainBound(key=held.key, variance=variance), x, held.labels)
    cost = solved.stats.summary()
    return _summary(in_unit(solved.y[0], data, of_levels=of_levels), data) | {
        "calls": int(cost["nfe_max"]),
        "variance": variance,
        "of": "levels" if of_levels else "a density",
        "cost": cost,
    }


def _summary(values: Values, data: Data) -> dict[str, Any]:
    """Mean and standard error of what `in_unit` returned."""
    error = {"standard_error": _standard_error(values)}
    if not data.experiment.spec.is_points:
        return {"images": len(values), "bits_per_dim": float(values.mean()), **error}
    nats = float(values.mean())
    return {"points": len(values), "nats": nats, "nats_per_dim": nats / len(data.units.columns), **error}


def _probe_errors(errors: Values, data: Data) -> dict[str, float]:
    """How far the probes alone may have put an image off, and the mean over images, which its standard error has in it."""
    each = _root_mean_square(errors) / _unit(data)
    return {"probe_error_per_image": each, "probe_error": each / float(np.sqrt(len(errors)))}


def _unit(data: Data) -> float:
    """Nats in one unit of `in_unit`."""
    spec = data.experiment.spec
    return 1.0 if spec.is_points else float(np.prod(spec.shape) * np.log(2.0))


def _root_mean_square(values: HostState) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _standard_error(values: Values) -> float | None:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def _of_states(states: dict[str, float], images: bool) -> str:
    """What the ODE's density is of, where that is not the data alone."""
    noise = (
        f"{128 * states['noise']:.1f} grey levels of 256" if images else f"{states['noise']:.2g} standard deviations"
    )
    return (
        f"The ODE's density is that of its states at t = {states['time']:.10g}, the path's end, with noise of {noise} in them: "
        "it is lower than the data's where these are sharper."
    )


def _probing(v: dict[str, Any]) -> str:
    """The probes by which a divergence was taken, in words."""
    if v["probe"] == "exact":
        return "exact divergence"
    count = v.get("probes", 1)
    return f"{count} {v['probe']} probe{'s' * (count > 1)}"


def _density(v: dict[str, Any]) -> str:
    if "nats" in v:
        return f"{plus_minus(v['nats'], v['standard_error'])} ({v['nats_per_dim']:.4f} for each coordinate)"
    return plus_minus(v["bits_per_dim"], v["standard_error"])
