"""Bits/dim of held-out images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.likelihood import bits_per_dim
from scoreflow_jax.model import Model
from scoreflow_jax.pixels import dequantized

WARNING = (
    "trained on data that were not dequantized: all its mass may sit on the grey levels, and the density between them says "
    "little. Train with config.data.dequantize=True"
)
_DEQUANTIZE, _PROBE = 0, 1  # folded into the seed


def measure_likelihood(model: Model, data: Data) -> dict[str, Any]:
    """Bits/dim of test images, uniformly dequantized once, with the standard error over images."""
    settings, spec = data.settings, data.experiment.spec
    chosen = data.some(settings.likelihood_images)
    pixels, labels = (data.examples("test")[field][chosen] for field in ("image", "label"))
    key = jax.random.key(settings.seeds[0])
    draw = jax.vmap(
        lambda i, pixels: dequantized(
            jax.random.fold_in(jax.random.fold_in(key, _DEQUANTIZE), i), pixels[None], spec.levels
        )[0]
    )
    images = jax.jit(draw)(jnp.arange(len(pixels)), jnp.asarray(pixels))
    solved = model.solve_log_likelihood(
        images,
        labels if model.num_classes else None,
        key=jax.random.fold_in(key, _PROBE),
        probe=settings.likelihood_probe,
    )
    bits = np.asarray(bits_per_dim(jnp.asarray(solved.y[0]), int(np.prod(spec.shape)), spec.levels), np.float64)
    summary = solved.stats.summary()
    figures = {
        "images": len(bits),
        "bits_per_dim": float(bits.mean()),
        "standard_error": float(bits.std(ddof=1) / np.sqrt(len(bits))) if len(bits) > 1 else None,
        "uniform": float(np.log2(spec.levels)),
        "probe": settings.likelihood_probe,
        "dequantization": "uniform, (k + u) / levels, drawn once",
        "evaluations": summary["nfe_mean"],
        "cost": summary,
    }
    return figures if trained_on_dequantized(model) else {**figures, "warning": WARNING}


def trained_on_dequantized(model: Model) -> bool:
    """Without which its likelihoods carry `WARNING`."""
    return bool(model.trained_config["data"].get("dequantize", False))
