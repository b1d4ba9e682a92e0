"""How straight the solutions run, and what few Euler steps, or jumps of a flow map, make of that.

Liu et al. 2022 (arXiv:2209.03003), section 2.2. For solutions x_t of the ODE from x_0 to x_1

    S = integral over [0, 1] of E|x_1 - x_0 - f(x_t, t, c)|^2 dt / D,

0 for straight lines, along which one Euler step is exact. The transport cost E|x_1 - x_0|^2 / D is what a straight line pays for
the same pair of ends, E|f|^2 what the solution pays: their difference is S. It is of the ODE, whatever config.solver says.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float

from scoreflow_jax import files
from scoreflow_jax.evaluation.base import Column, Data, Figures, Model, Part
from scoreflow_jax.evaluation.markdown import label_note, shown, table
from scoreflow_jax.settings.fields import field

_SHOWN = 10  # samples in a row of few_steps.png


@dataclasses.dataclass(frozen=True, kw_only=True)
class Straightness(Part):
    """How straight solutions run, and what few Euler steps make of it."""

    on: bool = field(False, "measure this part", was="straightness")
    images: int = field(200, "images to generate", least=1, was="straightness_images")
    times: int = field(21, "times along t at which the drift is taken", least=2, was="straightness_times")
    steps: tuple[int, ...] = field(
        (1, 2, 4, 8),
        "numbers of Euler steps, or of jumps where config.solver.method is flow_map, to compare with the solution",
        least=1,
        was="straightness_steps",
    )

    smoke = {"images": 20, "times": 3, "steps": (1, 2)}
    compares_features = True

    columns = (Column("straightness", "straightness", ".4f"),)

    def measure(self, model: Model, data: Data, out: pathlib.Path) -> Figures:
        """S, costs and S along t, and few Euler steps or jumps from the same noise; draws straightness.png and few_steps.png."""
        import jax

        from scoreflow_jax import figures, plots
        from scoreflow_jax.evaluation.drifts import drift_in_batches
        from scoreflow_jax.evaluation.samples import of_samples
        from scoreflow_jax.programs import Generate

        path, solver = model.experiment.path, model.experiment.solver
        count = model.at_most(self.images)
        start = np.asarray(model.source_points(jax.random.key(data.seed), count))
        labels = data.labels(count)
        times = np.linspace(path.t_min, path.t_max, self.times)
        solved = model.with_solver(solver.adaptive).solve(Generate(), start, labels, times=times)
        assert solved.path is not None
        chord = (solved.y - start) / (path.t_max - path.t_min)
        slopes = [drift_in_batches(model, x, float(t), labels) for x, t in zip(solved.path, times, strict=True)]
        bends = [_mean_square(chord - f) for f in slopes]
        figures_ = {
            "images": count,
            "labels": data.label_rule,
            "times": times.tolist(),
            "straightness": _integral(bends, times),
            "along_t": bends,
            "transport_cost": _mean_square(solved.y - start),
            "path_length": _integral([_mean_square(f) for f in slopes], times),
            "few_steps": [],
        }
        rows, way = [solved.y[:_SHOWN]], "jump" if solver.method == "flow_map" else "Euler step"
        for steps in self.steps:
            euler = dataclasses.replace(solver.adaptive, method="euler", num_steps=steps)
            few = solver.jumps(steps) if way == "jump" else euler
            y = model.with_solver(few).solve(Generate(), start, labels).y
            rows.append(y[:_SHOWN])
            figures_["few_steps"].append({"steps": steps, "by": way, **of_samples(y, solved.y, labels, data)})
        figures_["solved"] = {
            "nfe": solved.stats.summary()["nfe_mean"],
            **of_samples(solved.y, solved.y, labels, data),
        }
        curve = plots.Curve(f"S = {figures_['straightness']:.4f}", times.tolist(), bends, marked=False)
        axes = plots.Axes(f"{model.experiment.name}: |x1 - x0 - f(x_t, t)|^2 along solutions", "t", "mean square")
        with files.whole_file(out / "straightness.png") as temporary:
            plots.save_curves(temporary, [curve], axes)
        if not data.experiment.spec.is_points:
            captions = ["solved", *(f"{n} {way}{'s' * (n > 1)}" for n in self.steps)]
            with files.whole_file(out / "few_steps.png") as temporary:
                figures.save_rows(temporary, rows, captions=captions)
        return figures_

    @staticmethod
    def page(figures: Figures, report: Figures) -> str:
        """See `Part.page`."""
        del report
        solved = figures["solved"]
        judged = "recognized" in solved
        head = ["from the same noise", "NFE", "off by", *(["recognized"] if judged else [])]
        rows = [["solved", shown(solved["nfe"], ".0f"), "0", *([shown(solved["recognized"], ".1%")] if judged else [])]]
        for few in figures["few_steps"]:
            words = (
                f"{few['steps']} {few.get('by', 'Euler step')}{'s' * (few['steps'] > 1)}"  # of older versions Euler's
            )
            cells = [words, str(few["steps"]), shown(few["rms_difference"], ".4f")]
            rows.append(cells + ([shown(few["recognized"], ".1%")] if judged else []))
        words = (
            f"S = {figures['straightness']:.4f} (0: straight lines), transport cost {figures['transport_cost']:.4f}, "
            f"length of the path {figures['path_length']:.4f}, each a mean over dimensions of {figures['images']} images"
        )
        words += label_note(figures)
        return f"## Straightness\n\n{words}\n\n{table(head, rows)}\n\n![straightness](straightness.png)"

    @staticmethod
    def for_study(figures: Figures) -> Figures:
        """S; see `Part.for_study`."""
        return {"straightness": figures["straightness"]}


def measure_student(model: Model, teacher: Model, data: Data) -> Figures:
    """Measures a distilled model's samples, by the steps that it was trained for, beside its teacher's of the same noise.

    Args:
        model: the distilled one, with its solver.
        teacher: the model that it learned from.
        data: has the settings, the reference and the classifier.
    """
    import jax

    from scoreflow_jax.evaluation.samples import of_samples
    from scoreflow_jax.programs import Generate

    solver = model.experiment.solver
    count = model.at_most(data.settings.straightness.images)
    start = np.asarray(model.source_points(jax.random.key(data.seed), count))
    labels = data.labels(count)
    exact, y = teacher.solve(Generate(), start, labels).y, model.solve(Generate(), start, labels).y
    few = {"steps": solver.num_steps, **of_samples(y, exact, labels, data)}
    return {"images": count, "labels": data.label_rule, "few_steps": [few]}


def _mean_square(x: Any) -> float:
    return float(np.mean(np.square(x, dtype=np.float64)))


def _integral(values: list[float], times: Float[np.ndarray, " times"]) -> float:
    """The integral by the trapezoid rule."""
    return float(np.trapezoid(values, times))
