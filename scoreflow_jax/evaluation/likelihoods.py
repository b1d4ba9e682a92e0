"""Bits/dim of held-out images; of points of a table, nats."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.likelihood import bits_per_dim
from scoreflow_jax.model import Model
from scoreflow_jax.pixels import dequantized
from scoreflow_jax.typing import Images, PRNGKey, Stored

WARNING = (
    "trained on data that were not dequantized: all its mass may sit on the grey levels, and the density between them says "
    "little. Train with config.data.dequantize=True"
)
_DEQUANTIZE, _PROBE = 0, 1  # folded into the seed


def measure_likelihood(model: Model, data: Data) -> dict[str, Any]:
    """Bits/dim of test images, uniformly dequantized once, or nats of test points, with the standard error over them."""
    settings, spec = data.settings, data.experiment.spec
    chosen = data.some(settings.likelihood_images)
    examples, labels = (data.examples("test")[field][chosen] for field in ("image", "label"))
    key = jax.random.key(settings.seeds[0])
    solved = model.solve_log_likelihood(
        _dequantized(jax.random.fold_in(key, _DEQUANTIZE), examples, spec.levels) if spec.levels else examples,
        labels if model.num_classes else None,
        key=jax.random.fold_in(key, _PROBE),
        probe=settings.likelihood_probe,
    )
    summary = solved.stats.summary()
    how = {"probe": settings.likelihood_probe, "evaluations": summary["nfe_mean"], "cost": summary}
    if not spec.levels:
        return {**_nats(np.asarray(solved.y[0], np.float64), data), **how}
    bits = np.asarray(bits_per_dim(jnp.asarray(solved.y[0]), int(np.prod(spec.shape)), spec.levels), np.float64)
    figures = {
        "images": len(bits),
        "bits_per_dim": float(bits.mean()),
        "standard_error": _standard_error(bits),
        "uniform": float(np.log2(spec.levels)),
        "dequantization": "uniform, (k + u) / levels, drawn once",
        **how,
    }
    return figures if trained_on_dequantized(model) else {**figures, "warning": WARNING}


def _nats(standardized: Float[np.ndarray, " batch"], data: Data) -> dict[str, Any]:
    """The mean log density in the table's own units."""
    nats = standardized - data.units.log_volume
    return {
        "points": len(nats),
        "nats": float(nats.mean()),
        "nats_per_dim": float(nats.mean()) / len(data.units.columns),
        "standard_error": _standard_error(nats),
        "unit": "mean log density of held-out points in the table's own units, in nats: the higher the better",
    }


def _standard_error(values: Float[np.ndarray, " batch"]) -> float | None:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def _dequantized(key: PRNGKey, pixels: Stored, levels: int) -> Images:
    """Image i by noise from fold_in(key, i)."""
    draw = jax.vmap(lambda i, pixels: dequantized(jax.random.fold_in(key, i), pixels[None], levels)[0])
    return jax.jit(draw)(jnp.arange(len(pixels)), jnp.asarray(pixels))


def trained_on_dequantized(model: Model) -> bool:
    """Without which its likelihoods carry `WARNING`."""
    return bool(model.trained_config["data"].get("dequantize", False))
