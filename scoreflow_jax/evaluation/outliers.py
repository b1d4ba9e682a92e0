"""Log densities as an out-of-distribution score: are images of another kind less likely than held-out ones of the data?

log p(x) of a class-conditional model is that of its classes in equal shares. For each kind the figure is the area under the ROC
curve: the probability that a held-out image of the data is more likely than one of the kind; 0.5 says nothing, 1 tells all apart.
"""

import pathlib
from typing import Any

import jax
import numpy as np
import scipy.special
import scipy.stats
from jaxtyping import Float, UInt8

from scoreflow_jax import data as sources
from scoreflow_jax import files, plots
from scoreflow_jax.density_formula import STANDARD
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.density_classifier import class_densities
from scoreflow_jax.evaluation.likelihoods import HeldOut, dequantized_images, in_unit
from scoreflow_jax.model import Model
from scoreflow_jax.randomness import key_of
from scoreflow_jax.typing import Pixels

_SEED = 0
_SHRUNK = 4  # a photograph's patch is so many times as high and wide as the data, and averaged
_DATA = "held-out data"


def measure_outliers(model: Model, data: Data, out: pathlib.Path) -> dict[str, Any]:
    """The area under the ROC curve for each kind; draws outliers.png.

    Raises:
        UserError: the data are points, or `config.eval.outlier_data` cannot be opened.
    """
    settings, spec = data.settings, data.experiment.spec
    if not spec.levels:
        raise UserError("config.eval.outliers is about images, but the data are points: set it to False")
    held = HeldOut.draw(model, data, settings.outlier_images)
    kinds = {_DATA: held.pixels, **outlying(data, held.pixels)}
    bits: dict[str, Float[np.ndarray, " images"]] = {}
    for place, (name, pixels) in enumerate(kinds.items()):
        key = jax.random.fold_in(key_of(held.key, "outliers"), place)
        x = np.asarray(dequantized_images(key, pixels, spec.levels))
        # A Gaussian like the data would be no reference for what is far from them: pixels that never change have no variance.
        values, _ = class_densities(model, data, x, key, settings.outlier_calls, STANDARD)
        bits[name] = in_unit(scipy.special.logsumexp(values, axis=1) - np.log(values.shape[1]), data)
    own = bits[_DATA]
    rows = {
        name: {"images": len(b), "bits_per_dim": float(b.mean()), "area": area_under_roc(b, own)}
        for name, b in bits.items()
        if name != _DATA
    }
    shown = np.linspace(0.0, 1.0, 101)
    curves = [plots.Curve(n, np.quantile(b, shown).tolist(), shown.tolist(), marked=False) for n, b in bits.items()]
    title = f"{model.experiment.name}: bits/dim of the data and of other images"
    with files.whole_file(out / "outliers.png") as temporary:
        plots.save_curves(temporary, curves, plots.Axes(title, "bits/dim", "share of images below"))
    return {"images": len(own), "bits_per_dim": float(own.mean()), "calls": settings.outlier_calls, "kinds": rows}


def area_under_roc(above: Float[np.ndarray, " a"], below: Float[np.ndarray, " b"]) -> float:
    """P(a > b) + P(a = b) / 2 for a drawn from `above` and b from `below`: Mann and Whitney's statistic."""
    return float(scipy.stats.mannwhitneyu(above, below).statistic / (len(above) * len(below)))


def outlying(data: Data, pixels: Pixels) -> dict[str, Pixels]:
    """Images of other kinds at the data's shape and levels, as many as there are pixels."""
    rng, spec = np.random.default_rng(_SEED), data.experiment.spec
    top = spec.levels - 1
    shuffled = rng.permuted(pixels.reshape(len(pixels), -1), axis=1).reshape(pixels.shape)
    found = {
        "inverted": (top - pixels).astype(np.uint8),
        "pixels shuffled": shuffled,
        "uniform noise": rng.integers(0, spec.levels, pixels.shape, np.uint8),
    }
    photographs = _photographs()
    if photographs is not None:
        found["photographs"] = _patches(rng, photographs, len(pixels), spec.shape, spec.levels)
    fields = data.settings.outlier_data
    if fields:
        found["outlier_data"] = _others(data, fields, len(pixels))
    return found


Photographs = UInt8[np.ndarray, "photographs rows columns 3"]


def _photographs() -> Photographs | None:
    """scikit-learn's two, where it is installed."""
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        return None
    return np.stack(load_sample_images().images).astype(np.uint8)


def _patches(
    rng: np.random.Generator, photographs: Photographs, count: int, shape: tuple[int, ...], levels: int
) -> Pixels:
    """Patches by place at random, averaged to the shape; grey where the data are."""
    height, width, channels = shape
    patches = []
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        shrunk = max(1, min(_SHRUNK, photograph.shape[0] // height, photograph.shape[1] // width))
        size = height * shrunk, width * shrunk
        top, left = (
            int(rng.integers(0, whole - part + 1)) for whole, part in zip(photograph.shape, size, strict=False)
        )
        patch = photograph[top : top + size[0], left : left + size[1]].astype(np.float64)
        patch = patch.reshape(height, shrunk, width, shrunk, 3).mean(axis=(1, 3))
        patches.append(patch if channels == 3 else patch.mean(axis=-1, keepdims=True))
    return np.rint(np.stack(patches) * ((levels - 1) / 255.0)).astype(np.uint8)


def _others(data: Data, fields: dict[str, Any], count: int) -> Pixels:
    """Test images of a data set that the config describes."""
    spec = data.experiment.spec
    source = sources.open_source("test", sources.changed(data.experiment.data, fields, "outlier_data"))
    if (source.spec.shape, source.spec.levels) != (spec.shape, spec.levels):
        raise UserError(
            f"config.eval.outlier_data has {source.spec}, expected the shape and levels of the data: {spec.shape}, {spec.levels}"
        )
    chosen = np.random.default_rng(_SEED).permutation(len(source))[:count]
    return source.read(np.sort(chosen))["image"]
