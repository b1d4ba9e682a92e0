"""Densities as a classifier: the class c under which an image is most likely, argmax of log p(x | c) (Li and Yan 2024).

By the density formula, with the same noise levels and the same noise for every class, so that much of the scatter is common to
all and drops out of the comparison.
"""

import dataclasses
import pathlib

import numpy as np

from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.base import Data, Experiment, Figures, Model, Part
from scoreflow_jax.evaluation.markdown import table
from scoreflow_jax.settings.fields import field


@dataclasses.dataclass(frozen=True, kw_only=True)
class DensityClassifier(Part):
    """The class under which a test image is most likely, by the density formula."""

    on: bool = field(False, "measure this part", was="density_classifier")
    images: int = field(1000, "test images", least=1, was="density_classifier_images")
    calls: int = field(64, "network calls for each image and class", least=2, was="density_classifier_calls")

    smoke = {"images": 10, "calls": 8}
    of_densities = True

    def check(self, experiment: Experiment) -> None:
        """Refuses a model without classes."""
        if not experiment.num_classes:
            raise UserError(
                "config.eval.density_classifier compares classes, but the model has none: set its field `on` to False, or "
                "train with config.model.conditional=True"
            )

    def measure(self, model: Model, data: Data, out: pathlib.Path) -> Figures:
        """The share of test images whose class is found, beside that of a classifier trained for it where the config has one."""
        from scoreflow_jax.evaluation.densities import HeldOut, class_densities, formula_of, gaussian_like

        del out
        held = HeldOut.draw(model, data, self.images)
        reference = gaussian_like(data)
        values, stats = class_densities(model, data, held.x, held.key, self.calls, reference)
        assert held.labels is not None
        right = values.argmax(axis=1) == held.labels
        ordered = np.sort(values, axis=1)
        figures = {
            "images": len(right),
            "accuracy": float(right.mean()),
            "standard_error": float(np.sqrt(right.mean() * (1 - right.mean()) / len(right))),
            "calls_per_class": formula_of(data.settings.density_levels, self.calls).num_calls,
            "median_margin": float(np.median(ordered[:, -1] - ordered[:, -2])),
            "seconds_per_image": stats.seconds / len(right),
        }
        judge = data.judge
        if judge is not None:
            figures["trained_classifier"] = judge.share(data.experiment.scaling.to_images(held.pixels), held.labels)
        return figures

    @staticmethod
    def page(figures: Figures, report: Figures) -> str:
        """See `Part.page`."""
        del report
        rows = [
            [
                "the class under which the image is most likely",
                f"{figures['accuracy']:.1%} ± {figures['standard_error']:.1%}",
            ],
            ["network calls for each image and class", str(figures["calls_per_class"])],
            ["median margin to the next class, nats", f"{figures['median_margin']:.2f}"],
            ["s per image", f"{figures['seconds_per_image']:.3g}"],
        ]
        if "trained_classifier" in figures:
            rows.insert(1, ["a classifier trained for it", f"{figures['trained_classifier']:.1%}"])
        return "## Density as a classifier\n\n" + table([f"{figures['images']} held-out images", "right"], rows)
