"""Densities as a classifier: the class c under which an image is most likely, argmax of log p(x | c) (Li and Yan 2024).

By the density formula, with the same noise levels and the same noise for every class, so that much of the scatter is common to
all and drops out of the comparison.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from scoreflow_jax.density_formula import Gaussian
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.likelihoods import HeldOut, formula_of, gaussian_like, table_for
from scoreflow_jax.metrics.recognition import Recognizer
from scoreflow_jax.model import Model
from scoreflow_jax.randomness import key_of
from scoreflow_jax.sampling import SolveStats, sample_keys
from scoreflow_jax.typing import HostState, PRNGKey


def measure_density_classifier(model: Model, data: Data) -> dict[str, Any]:
    """The share of test images whose class is found, beside that of a classifier trained for it where the config has one.

    Raises:
        UserError: the model has no classes.
    """
    settings = data.settings
    if not model.num_classes:
        raise UserError(
            "config.eval.density_classifier compares classes, but the model has none: set it to False, or train with "
            "config.model.conditional=True"
        )
    held = HeldOut.draw(model, data, settings.density_classifier_images)
    reference = gaussian_like(data)
    values, stats = class_densities(model, data, held.x, held.key, settings.density_classifier_calls, reference)
    assert held.labels is not None
    right = values.argmax(axis=1) == held.labels
    ordered = np.sort(values, axis=1)
    figures = {
        "images": len(right),
        "accuracy": float(right.mean()),
        "standard_error": float(np.sqrt(right.mean() * (1 - right.mean()) / len(right))),
        "calls_per_class": formula_of(settings.density_levels, settings.density_classifier_calls).num_calls,
        "median_margin": float(np.median(ordered[:, -1] - ordered[:, -2])),
        "seconds_per_image": stats.seconds / len(right),
    }
    judge: Recognizer | None = data.judge
    if judge is not None:
        figures["trained_classifier"] = judge.share(data.experiment.scaling.to_images(held.pixels), held.labels)
    return figures


def class_densities(
    model: Model, data: Data, x: HostState, key: PRNGKey, calls: int, reference: Gaussian
) -> tuple[Float[np.ndarray, "batch classes"], SolveStats]:
    """log p(x | c) in nats for every class, from common noise; of an unconditional model one column, log p(x)."""
    formula, classes = formula_of(data.settings.density_levels, calls), max(model.num_classes, 1)
    table = table_for(model, data, reference) if formula.levels == "tabulated" else None
    keys = np.asarray(sample_keys(key_of(key, "formula"), np.arange(len(x))))
    solved = model.solve_formula_density(
        np.repeat(x, classes, axis=0),
        np.tile(np.arange(classes, dtype=np.int32), len(x)) if model.num_classes else None,
        keys=np.repeat(keys, classes, axis=0),
        formula=formula,
        reference=reference,
        table=table,
    )
    return solved.y[0].reshape(len(x), classes).astype(np.float64), solved.stats
