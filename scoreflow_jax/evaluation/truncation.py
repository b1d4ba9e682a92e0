"""Truncation error along t, figure 2 of ScoreFlow: how far solution and one-step estimate are from the straight path.

For an image x and the latent z that encodes it, xbar(t) = (1 - t) z + t x is the path that algorithm 1 trains on, x(t) the
solution of the ODE between the same two points, and z + t f(xbar(t), t, c) the estimate of x(t) by one step that the loss takes
for it.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from scoreflow_jax import files
from scoreflow_jax.evaluation.base import Data, Figures, Model, Part
from scoreflow_jax.evaluation.markdown import table
from scoreflow_jax.settings.fields import field

SOLVED = "solution: x(t) to xbar(t)"
ONE_STEP = "one step: z + t f(xbar, t) to xbar(t)"
UNPAIRED = "one step from noise that is not the image's own, as in training"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truncation(Part):
    """One-step estimate against solution along t, the paper's figure 2."""

    on: bool = field(False, "measure this part", was="truncation")
    images: int = field(100, "test images", least=1, was="truncation_images")
    times: int = field(21, "times along t", least=2, was="truncation_times")

    smoke = {"images": 10, "times": 3}

    def measure(self, model: Model, data: Data, out: pathlib.Path) -> Figures:
        """Root mean square errors by time, over test images; draws truncation.png. On a path that is not straight, why not."""
        import jax

        from scoreflow_jax import plots
        from scoreflow_jax.evaluation.drifts import drift_in_batches
        from scoreflow_jax.programs import Encode

        path = model.experiment.path
        if not path.is_straight:
            return {"omitted": "the one-step estimate z + t f is of the straight path, and this model's is another"}
        images, labels = data.images("test", data.some(self.images))
        chosen = labels if model.num_classes else None
        times = np.linspace(path.t_min, path.t_max, self.times)
        encoded = model.solve(Encode(), images, chosen, times=times[::-1])
        assert encoded.path is not None
        solution, latents = encoded.path[::-1], encoded.y
        noise = np.asarray(model.source_points(jax.random.key(data.seed), len(images)))
        errors: dict[str, list[float]] = {SOLVED: [], ONE_STEP: [], UNPAIRED: []}
        for t, state in zip(times, solution, strict=True):
            straight = (1 - t) * latents + t * images
            errors[SOLVED].append(_rms(state - straight))
            for name, z in ((ONE_STEP, latents), (UNPAIRED, noise)):
                at = (1 - t) * z + t * images
                estimate = z + t * drift_in_batches(model, at, float(t), chosen)
                errors[name].append(_rms(estimate - at))
        curves = [plots.Curve(name, times.tolist(), values, marked=False) for name, values in errors.items()]
        over = "coordinates" if model.experiment.spec.is_points else "pixels"
        axes = plots.Axes(
            f"{model.experiment.name}: distance to the straight path", "t", f"root mean square over {over}"
        )
        with files.whole_file(out / "truncation.png") as temporary:
            plots.save_curves(temporary, curves, axes)
        return {"images": len(images), "times": times.tolist(), "root_mean_square": errors}

    @staticmethod
    def page(figures: Figures, report: Figures) -> str:
        """See `Part.page`."""
        del report
        if "omitted" in figures:
            return f"## Truncation error along t\n\nNot measured: {figures['omitted']}."
        rows = [[n, f"{max(v):.4f}", f"{sum(v) / len(v):.4f}"] for n, v in figures["root_mean_square"].items()]
        head = [f"distance to the straight path, {figures['images']} held-out images", "largest over t", "mean over t"]
        return "## Truncation error along t\n\n" + table(head, rows) + "\n\n![truncation](truncation.png)"


def _rms(x: Any) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))
