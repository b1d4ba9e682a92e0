"""Truncation error along t, figure 2 of ScoreFlow: how far solution and one-step estimate are from the straight path.

For an image x and the latent z that encodes it, xbar(t) = (1 - t) z + t x is the path that algorithm 1 trains on, x(t) the
solution of the ODE between the same two points, and z + t f(xbar(t), t, c) the estimate of x(t) by one step that the loss takes
for it.
"""

import pathlib
from typing import Any

import jax
import numpy as np

from scoreflow_jax import files, plots
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.straightness import in_batches
from scoreflow_jax.model import Model
from scoreflow_jax.paths import LinearPath

SOLVED = "solution: x(t) to xbar(t)"
ONE_STEP = "one step: z + t f(xbar, t) to xbar(t)"
UNPAIRED = "one step from noise that is not the image's own, as in training"


def measure_truncation(model: Model, data: Data, out: pathlib.Path) -> dict[str, Any]:
    """Root mean square errors by time, over test images; draws truncation.png. On a path that is not straight, why not."""
    settings, path = data.settings, model.experiment.path
    if type(path) is not LinearPath or path.has_latent:
        return {"omitted": "the one-step estimate z + t f is of the straight path, and this model's is another"}
    images, labels = data.images("test", data.some(settings.truncation_images))
    chosen = labels if model.num_classes else None
    times = np.linspace(path.t_min, path.t_max, settings.truncation_times)
    encoded = model.solve_encode(images, chosen, times[::-1])
    assert encoded.path is not None
    solution, latents = encoded.path[::-1], encoded.y
    noise = np.asarray(model.source_points(jax.random.key(settings.seeds[0]), len(images)))
    errors: dict[str, list[float]] = {SOLVED: [], ONE_STEP: [], UNPAIRED: []}
    for t, state in zip(times, solution, strict=True):
        straight = (1 - t) * latents + t * images
        errors[SOLVED].append(_rms(state - straight))
        for name, z in ((ONE_STEP, latents), (UNPAIRED, noise)):
            at = (1 - t) * z + t * images
            estimate = z + t * in_batches(model, at, float(t), chosen)
            errors[name].append(_rms(estimate - at))
    curves = [plots.Curve(name, times.tolist(), values, marked=False) for name, values in errors.items()]
    over = "pixels" if model.experiment.spec.levels else "coordinates"
    axes = plots.Axes(f"{model.experiment.name}: distance to the straight path", "t", f"root mean square over {over}")
    with files.whole_file(out / "truncation.png") as temporary:
        plots.save_curves(temporary, curves, axes)
    return {"images": len(images), "times": times.tolist(), "root_mean_square": errors}


def _rms(x: Any) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))
