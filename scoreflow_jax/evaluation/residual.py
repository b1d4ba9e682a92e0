"""The training error of held-out data along t: E|f(x_t, t, c) - dx_t/dt|^2 / D, unweighted, whatever weight it was trained with.

Its least value at each t is the variance of dx_t/dt given x_t, the same for every model on one path, so that differences between
models at one t are differences of their drifts' errors. (A learned path is each model's own.) Noise is the same for every time
and model.
"""

import dataclasses
import pathlib

import numpy as np

from scoreflow_jax import files
from scoreflow_jax.evaluation.base import Column, Data, Figures, Model, Part
from scoreflow_jax.evaluation.markdown import table
from scoreflow_jax.settings.fields import field


@dataclasses.dataclass(frozen=True, kw_only=True)
class Residual(Part):
    """Held-out error of the velocity along t."""

    on: bool = field(False, "measure this part", was="residual")
    images: int = field(200, "test images", least=1, was="residual_images")
    noises: int = field(4, "noises drawn for each image", least=1, was="residual_noises")
    times: int = field(21, "times along t", least=2, was="residual_times")

    smoke = {"images": 10, "noises": 1, "times": 3}

    columns = (Column("residual", "held-out error", ".4f"),)

    def measure(self, model: Model, data: Data, out: pathlib.Path) -> Figures:
        """The mean square by time over test examples, each with several noises; draws residual.png."""
        import jax
        import jax.numpy as jnp

        from scoreflow_jax import plots
        from scoreflow_jax.evaluation.drifts import drift_in_batches
        from scoreflow_jax.randomness import key_of

        images, labels = data.images("test", data.some(self.images))
        images = np.repeat(images, self.noises, axis=0)
        chosen = np.repeat(labels, self.noises) if model.num_classes else None
        path = model.experiment.drift(
            jax.device_get(model.params)
        ).path  # on this host: arrays of all processes stay apart
        key = jax.random.key(data.seed)
        source = np.asarray(model.source_points(key, len(images)))
        x0, z = source / path.prior_scale, None
        if path.has_latent:
            z = jax.random.normal(key_of(key, "latent"), images.shape)
        # Off the ends, where some paths' velocities are not finite.
        times = np.clip(np.linspace(0.0, 1.0, self.times), 0.02, 0.98)
        along = []
        for t in times:
            each = jnp.full(len(images), t, jnp.float32)
            arrays = each, jnp.asarray(x0), jnp.asarray(images), z
            x_t, velocity = path.interpolant(*arrays), path.velocity(*arrays)
            error = drift_in_batches(model, np.asarray(x_t), float(t), chosen) - np.asarray(velocity)
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

    @staticmethod
    def page(figures: Figures, report: Figures) -> str:
        """See `Part.page`."""
        del report
        shown = range(0, len(figures["times"]), max(1, len(figures["times"]) // 6))
        rows = [[f"{figures['times'][i]:.2f}", f"{figures['mean_square'][i]:.4f}"] for i in shown]
        along = table(["t", "mean square of f - dx_t/dt"], rows)
        return (
            f"## Held-out error along t\n\nmean over t: {figures['mean']:.4f}\n\n{along}\n\n![residual](residual.png)"
        )

    @staticmethod
    def for_study(figures: Figures) -> Figures:
        """The mean, and the curve along t; see `Part.for_study`."""
        return {"residual": figures["mean"], "times": figures["times"], "along_t": figures["mean_square"]}
