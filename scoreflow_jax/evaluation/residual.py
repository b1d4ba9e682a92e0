"""The training error of held-out data along t: E|f(x_t, t, c) - dx_t/dt|^2 / D, unweighted, whatever weight it was trained with.

Its least value at each t is the variance of dx_t/dt given x_t, the same for every model on one path, so that differences between
models at one t are differences of their drifts' errors. (A learned path is each model's own.) Noise is the same for every time
and model.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scoreflow_jax import files, plots
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.straightness import in_batches
from scoreflow_jax.model import Model
from scoreflow_jax.randomness import key_of


def measure_residual(model: Model, data: Data, out: pathlib.Path) -> dict[str, Any]:
    """The mean square by time over test examples, each with several noises; draws residual.png."""
    settings = data.settings
    images, labels = data.images("test", data.some(settings.residual_images))
    images = np.repeat(images, settings.residual_noises, axis=0)
    chosen = np.repeat(labels, settings.residual_noises) if model.num_classes else None
    path = model.experiment.drift(jax.device_get(model.params)).path  # on this host: arrays of all processes stay apart
    key = jax.random.key(settings.seeds[0])
    source = np.asarray(model.source_points(key, len(images)))
    x0, z = source / path.prior_scale, None
    if path.has_latent:
        z = jax.random.normal(key_of(key, "latent"), images.shape)
    # Off the ends, where some paths' velocities are not finite.
    times = np.clip(np.linspace(0.0, 1.0, settings.residual_times), 0.02, 0.98)
    along = []
    for t in times:
        each = jnp.full(len(images), t, jnp.float32)
        arrays = each, jnp.asarray(x0), jnp.asarray(images), z
        x_t, velocity = path.interpolant(*arrays), path.velocity(*arrays)
        error = in_batches(model, np.asarray(x_t), float(t), chosen) - np.asarray(velocity)
        along.append(float(np.mean(np.square(error, dtype=np.float64))))
    curve = plots.Curve(model.experiment.name, times.tolist(), along, marked=False)
    axes = plots.Axes(f"{model.experiment.name}: held-out error of the velocity", "t", "mean square")
    with files.whole_file(out / "residual.png") as temporary:
        plots.save_curves(temporary, [curve], axes)
    return {
        "images": len(images),
        "times": times.tolist(),
        "mean_square": along,
        "mean": float(np.trapezoid(along, times) / (times[-1] - times[0])),
    }
