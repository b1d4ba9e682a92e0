"""How exactly encoding and decoding give an image back, and what the tolerance has to do with it."""

import dataclasses
from typing import Any

import numpy as np

from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.model import Model


def measure_reversibility(model: Model, data: Data) -> dict[str, Any]:
    """Encodes and decodes test images, once for each tolerance; with fixed steps once."""
    settings, solver = data.settings, model.experiment.solver
    images, labels = data.images("test", data.some(settings.num_reconstructions))
    chosen = labels if model.num_classes else None
    if solver.num_steps is not None:
        return {"images": len(images), "by_tolerance": {f"{solver.num_steps} steps": _errors(model, images, chosen)}}
    by_tolerance = {}
    for tolerance in settings.reconstruction_tolerances:
        at = model.with_solver(dataclasses.replace(solver, rtol=tolerance, atol=tolerance))
        by_tolerance[f"{tolerance:g}"] = _errors(at, images, chosen)
    return {"images": len(images), "by_tolerance": by_tolerance}


def _errors(model: Model, images: Any, labels: Any) -> dict[str, Any]:
    encoded = model.solve_encode(images, labels)
    decoded = model.solve_generate(encoded.y, labels)
    error = np.abs(decoded.y - images)
    return {
        "mean_absolute_error": float(error.mean()),
        "root_mean_square_error": float(np.sqrt(np.mean(np.square(error, dtype=np.float64)))),
        "max_absolute_error": float(error.max()),
        "nfe_encode": encoded.stats.summary()["nfe_mean"],
        "nfe_decode": decoded.stats.summary()["nfe_mean"],
    }
