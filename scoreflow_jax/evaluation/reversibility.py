"""How exactly encoding and decoding give an image back, and what the tolerance has to do with it."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from scoreflow_jax.evaluation.base import Data, Figures, Model, Part
from scoreflow_jax.evaluation.markdown import shown, table
from scoreflow_jax.settings.fields import field


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reversibility(Part):
    """Test images encoded and decoded."""

    on: bool = field(True, "measure this part", was="reversibility")
    images: int = field(100, "test images", least=1, was="num_reconstructions")
    tolerances: tuple[float, ...] = field(
        (1e-3, 1e-4, 1e-5),
        "tolerances of the adaptive steps, tried one after the other",
        above=0,
        was="reconstruction_tolerances",
    )
    calls: tuple[int, ...] = field(
        (1, 2, 4, 8), "numbers of jumps each way, tried where config.solver.method is flow_map", least=1, added=True
    )

    smoke = {"images": 10, "tolerances": (1e-3,)}

    def measure(self, model: Model, data: Data, out: pathlib.Path) -> Figures:
        """Encodes and decodes test images, once for each tolerance or number of jumps; with fixed steps once."""
        from scoreflow_jax.evaluation.densities import as_trained

        del out
        solver = model.experiment.solver
        images, labels = data.images("test", data.some(self.images))
        chosen = labels if model.num_classes else None
        if solver.between:
            what = "jumps" if solver.method == "flow_map" else "steps"
            ways = {f"{solver.num_steps} {what} that meet at {', '.join(f'{t:g}' for t in solver.between)}": solver}
        elif solver.method == "flow_map":
            ways = {f"{n} jump{'s' * (n > 1)}": solver.jumps(n) for n in self.calls}
        elif solver.num_steps is not None:
            grid = f", {solver.grid}" * (solver.grid != "uniform")
            ways = {f"{solver.num_steps} steps{grid}": solver}
        else:
            ways = {f"{e:g}": dataclasses.replace(solver, rtol=e, atol=e) for e in self.tolerances}
        drawn = as_trained(model, data, self.images)
        errors = {name: there_and_back(model.with_solver(way), images, chosen, drawn) for name, way in ways.items()}
        return {"images": len(images), "by_tolerance": errors}

    @staticmethod
    def page(figures: Figures, report: Figures) -> str:
        """See `Part.page`."""
        del report
        columns = (
            ("mean_absolute_error", ".1e"), ("max_absolute_error", ".1e"), ("latents_deviation", ".3f"), ("nfe_encode", ".0f"),
            ("nfe_decode", ".0f"),
        )  # fmt: skip
        rows = [
            [tolerance, *(shown(e.get(name), style) for name, style in columns)]
            for tolerance, e in figures["by_tolerance"].items()
        ]
        head = [
            f"{figures['images']} held-out images, tolerance",
            "mean absolute error",
            "largest",
            "deviation of latents of images as in training (of the prior 1)",
            "NFE there",
            "and back",
        ]
        return "## Encoding and decoding\n\n" + table(head, rows)


def there_and_back(model: Model, images: Any, labels: Any, drawn: Any = None) -> Figures:
    """Errors of encoding and decoding images, with what it costs, and mean and deviation of latents.

    Args:
        model: with its solver.
        images: (batch, ...).
        labels: their classes; None for an unconditional model.
        drawn: the same images as in training, of which the latents are (`densities.as_trained`); None: these.
    """
    from scoreflow_jax.programs import Encode, Generate

    encoded = model.solve(Encode(), images, labels)
    decoded = model.solve(Generate(), encoded.y, labels)
    latents = encoded.y if drawn is None else model.solve(Encode(), drawn, labels).y
    error = np.abs(decoded.y - images)
    return {
        "mean_absolute_error": float(error.mean(dtype=np.float64)),
        "root_mean_square_error": float(np.sqrt(np.mean(np.square(error, dtype=np.float64)))),
        "max_absolute_error": float(error.max()),
        "latents_mean": float(latents.mean(dtype=np.float64)),
        "latents_deviation": float(latents.std(dtype=np.float64)),
        "nfe_encode": encoded.stats.summary()["nfe_mean"],
        "nfe_decode": decoded.stats.summary()["nfe_mean"],
    }
