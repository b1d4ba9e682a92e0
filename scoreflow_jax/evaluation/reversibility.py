"""How exactly encoding and decoding give an image back, and what the tolerance has to do with it."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from scoreflow_jax.evaluation.base import Data, Figures, Model, Part
from scoreflow_jax.evaluation.markdown import table
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

    smoke = {"images": 10, "tolerances": (1e-3,)}

    def measure(self, model: Model, data: Data, out: pathlib.Path) -> Figures:
        """Encodes and decodes test images, once for each tolerance; with fixed steps once."""
        del out
        solver = model.experiment.solver
        images, labels = data.images("test", data.some(self.images))
        chosen = labels if model.num_classes else None
        if solver.num_steps is not None:
            return {
                "images": len(images),
                "by_tolerance": {f"{solver.num_steps} steps": _errors(model, images, chosen)},
            }
        by_tolerance = {}
        for tolerance in self.tolerances:
            at = model.with_solver(dataclasses.replace(solver, rtol=tolerance, atol=tolerance))
            by_tolerance[f"{tolerance:g}"] = _errors(at, images, chosen)
        return {"images": len(images), "by_tolerance": by_tolerance}

    @staticmethod
    def page(figures: Figures, report: Figures) -> str:
        """See `Part.page`."""
        del report
        columns = (
            ("mean_absolute_error", ".1e"), ("max_absolute_error", ".1e"), ("nfe_encode", ".0f"), ("nfe_decode", ".0f"),
        )  # fmt: skip
        rows = [
            [tolerance, *(f"{e[name]:{style}}" for name, style in columns)]
            for tolerance, e in figures["by_tolerance"].items()
        ]
        head = [
            f"{figures['images']} held-out images, tolerance",
            "mean absolute error",
            "largest",
            "NFE there",
            "and back",
        ]
        return "## Encoding and decoding\n\n" + table(head, rows)


def _errors(model: Model, images: Any, labels: Any) -> dict[str, Any]:
    from scoreflow_jax.programs import Encode, Generate

    encoded = model.solve(Encode(), images, labels)
    decoded = model.solve(Generate(), encoded.y, labels)
    error = np.abs(decoded.y - images)
    return {
        "mean_absolute_error": float(error.mean()),
        "root_mean_square_error": float(np.sqrt(np.mean(np.square(error, dtype=np.float64)))),
        "max_absolute_error": float(error.max()),
        "nfe_encode": encoded.stats.summary()["nfe_mean"],
        "nfe_decode": decoded.stats.summary()["nfe_mean"],
    }
