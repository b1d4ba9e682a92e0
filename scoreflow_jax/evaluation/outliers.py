"""Log densities as an out-of-distribution score: are images of another kind less likely than held-out ones of the data?

log p(x) of a class-conditional model is that of its classes in equal shares. For each kind the figure is the area under the ROC
curve: the probability that a held-out image of the data is more likely than one of the kind; 0.5 says nothing, 1 tells all apart.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from scoreflow_jax import files
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.base import Data, Experiment, Figures, Model, Part
from scoreflow_jax.evaluation.markdown import table
from scoreflow_jax.host_typing import Pixels
from scoreflow_jax.settings.fields import field

_SEED = 0
_SHRUNK = 4  # a photograph's patch is so many times as high and wide as the data, and averaged
_DATA = "held-out data"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outliers(Part):
    """Whether images of another kind are less likely: photographs' patches, inverted and shuffled images, noise."""

    on: bool = field(False, "measure this part", was="outliers")
    images: int = field(200, "images of each kind", least=1, was="outlier_images")
    calls: int = field(64, "network calls for each image and class", least=2, was="outlier_calls")
    data: dict[str, Any] = field({}, "fields of config.data that describe a further kind", was="outlier_data")

    smoke = {"images": 10, "calls": 8}
    of_densities = True

    def check(self, experiment: Experiment) -> None:
        """Refuses points."""
        if experiment.spec.is_points:
            raise UserError(
                "config.eval.outliers is about images, but the data are points: set its field `on` to False"
            )

    def measure(self, model: Model, data: Data, out: pathlib.Path) -> Figures:
        """The area under the ROC curve for each kind; draws outliers.png.

        Raises:
            UserError: the further kind of data cannot be opened.
        """
        import jax
        import scipy.special

        from scoreflow_jax import plots
        from scoreflow_jax.density_formula import STANDARD
        from scoreflow_jax.evaluation.densities import HeldOut, class_densities, dequantized_images, in_unit
        from scoreflow_jax.randomness import key_of

        spec = data.experiment.spec
        held = HeldOut.draw(model, data, self.images)
        kinds = {_DATA: held.pixels, **outlying(data, held.pixels, self.data)}
        bits: dict[str, Float[np.ndarray, " images"]] = {}
        for place, (name, pixels) in enumerate(kinds.items()):
            key = jax.random.fold_in(key_of(held.key, "outliers"), place)
            x = np.asarray(dequantized_images(key, pixels, spec.levels))
            # A Gaussian like the data would be no reference for what is far from them: pixels that never change have no variance.
            values, _ = class_densities(model, data, x, key, self.calls, STANDARD)
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
        return {"images": len(own), "bits_per_dim": float(own.mean()), "calls": self.calls, "kinds": rows}

    @staticmethod
    def page(figures: Figures, report: Figures) -> str:
        """See `Part.page`."""
        del report
        rows = [
            [n, str(k["images"]), f"{k['bits_per_dim']:.3f}", f"{k['area']:.3f}"] for n, k in figures["kinds"].items()
        ]
        rows.insert(0, ["held-out data", str(figures["images"]), f"{figures['bits_per_dim']:.3f}", ""])
        head = ["images", "n", "bits/dim by the formula", "area under the ROC curve"]
        return f"## Other images\n\n{table(head, rows)}\n\n![bits/dim](outliers.png)"


def area_under_roc(above: Float[np.ndarray, " a"], below: Float[np.ndarray, " b"]) -> float:
    """P(a > b) + P(a = b) / 2 for a drawn from `above` and b from `below`: Mann and Whitney's statistic."""
    import scipy.stats

    return float(scipy.stats.mannwhitneyu(above, below).statistic / (len(above) * len(below)))


def outlying(data: Data, pixels: Pixels, fields: dict[str, Any]) -> dict[str, Pixels]:
    """Makes images of other kinds at the data's shape and levels, as many as there are pixels; of the fields' data too.

    Args:
        data: says shape and levels.
        pixels: of the data, 0 .. levels - 1, (batch, height, width, channel); the inverted and shuffled ones are made of them.
        fields: of config.data, which describe a further kind; empty: none.
    """
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
    from scoreflow_jax import data as sources

    spec = data.experiment.spec
    source = sources.open_source("test", sources.changed(data.experiment.data, fields, "eval.outliers.data"))
    if (source.spec.shape, source.spec.levels) != (spec.shape, spec.levels):
        raise UserError(
            f"config.eval.outliers.data has {source.spec}, expected the shape and levels of the data: {spec.shape}, {spec.levels}"
        )
    chosen = np.random.default_rng(_SEED).permutation(len(source))[:count]
    return source.read(np.sort(chosen))["image"]
