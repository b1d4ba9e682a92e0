"""How good and how varied generated images are, and what they cost."""

import dataclasses
import hashlib
import json
import math
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from scoreflow_jax import figures, files, randomness, sums
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.extractors import Extractor
from scoreflow_jax.evaluation.features import CHUNK
from scoreflow_jax.evaluation.statistics import Statistics, covariance_of, too_few
from scoreflow_jax.metrics import recognition
from scoreflow_jax.metrics.diversity import nearest_distance, within_class_std
from scoreflow_jax.metrics.frechet import Gaussian, frechet_distance
from scoreflow_jax.metrics.inception_score import inception_score
from scoreflow_jax.metrics.kernel import kernel_distance
from scoreflow_jax.metrics.precision_recall import NEIGHBOURS, precision_recall
from scoreflow_jax.model import Model
from scoreflow_jax.progress import progress
from scoreflow_jax.sampling import SolveStats
from scoreflow_jax.sampling.guidance import network_calls
from scoreflow_jax.typing import Stored

_FIELDS = ("evaluations", "rejected", "seconds", "compile_seconds")
_SHOWN = 100  # images in grid.png
_COLUMNS = 10
_ON_PIXELS = 1000  # images of which spread and neighbours are measured

Features = Float[np.ndarray, "batch features"]


class Generated(NamedTuple):
    """Generated images as they are held: features of all, and the first of them.

    Attributes:
        features: in the order of the samples' numbers.
        labels: classes; None for an unconditional model.
        first: the first images, as many as were kept, up to `_ON_PIXELS`.
        stats: what they cost, those of earlier runs of the same evaluation included.
    """

    features: Features
    labels: Int[np.ndarray, " batch"] | None
    first: Stored
    stats: SolveStats


def measure_generation(model: Model, data: Data, out: pathlib.Path) -> dict[str, Any]:
    """Figures of generated images, one set for each seed; draws grid.png.

    Args:
        model: to generate with.
        data: to compare with.
        out: eval/<step>, for the samples.

    Returns:
        Figures by seed, their mean and standard deviation; those of held-out real images, of at most as many; and where
        held-out images are fewer those of as many generated ones, since most figures depend on the number.
    """
    settings = data.settings
    count, held_out = model.at_most(settings.num_images), len(data.source("test"))
    by_seed, of_as_many = {}, {}
    for seed in settings.seeds:
        generated = generate(model, data, out, seed)
        by_seed[str(seed)] = _figures(generated, data)
        if seed == settings.seeds[0]:
            _draw(out / "grid.png", generated, data)
            if held_out < count:
                of_as_many = _of_features(generated.features[:held_out], data)
        del generated  # 400 MB for 50,000 images
    report: dict[str, Any] = {
        "images": count,
        "guidance": model.experiment.sample.guidance,
        "labels": data.labels_told,
        "reference": data.reference.facts,
        "kid": "unbiased, cubic kernel; mean over 100 random subsets of 1,000 images, or of small sets all images once",
        "precision_recall": f"k = {NEIGHBOURS}, on the extractor's features",
        "inception_score": "10 splits, without the output layer's bias",
        "classifier": None if data.judge is None else recognition.DESCRIPTION,
        "by_seed": by_seed,
        "real": _real(data, min(count, held_out)),
    }
    if data.jpeg_warning is not None:
        report["warning"] = data.jpeg_warning
    if of_as_many:
        report["of_as_many"] = of_as_many
    if len(by_seed) > 1:
        report["over_seeds"] = over_seeds(list(by_seed.values()))
    return report


def _draw(path: pathlib.Path, generated: Generated, data: Data) -> None:
    """The first images as a grid, class by class; of points, those that are at hand."""
    if not data.experiment.spec.levels:
        labels = None if generated.labels is None else generated.labels[: len(generated.first)]
        data.point_plots.samples(path, generated.first, labels)
        return
    first = data.experiment.scaling.from_eight_bits(generated.first[:_SHOWN])
    if generated.labels is not None:
        first = first[np.argsort(generated.labels[: len(first)], kind="stable")]
    with files.whole_file(path) as temporary:
        figures.save_grid(temporary, first, columns=_COLUMNS)


def over_seeds(figures: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and sample standard deviation of every figure that is a number in all of them; never the minimum."""
    names = [n for n, v in figures[0].items() if all(isinstance(f.get(n), float) for f in figures)]
    columns = {n: np.asarray([f[n] for f in figures]) for n in names}
    return {n: {"mean": float(c.mean()), "std": float(c.std(ddof=1))} for n, c in columns.items()}


def generate(model: Model, data: Data, out: pathlib.Path, seed: int) -> Generated:
    """Generates num_images in chunks that are kept, so that a stopped evaluation goes on.

    Never more than a chunk is held as float. Sample i is the same whatever the chunk; chunks are whole batches.
    """
    settings, extractor = data.settings, data.extractor
    count, size = model.at_most(settings.num_images), settings.batch_size * max(1, CHUNK // settings.batch_size)
    labels = data.labels(count)
    folder = out / "samples" / f"seed{seed}-{_identity(model, data, seed, size)}"
    stats, first_images = SolveStats(), []
    features = np.empty((count, extractor.size), np.float32)
    with progress(f"generating, seed {seed}", count, " images") as bar:
        for first in range(0, count, size):
            kept = min(size, count - first)
            path = folder / f"{first:08d}-{kept}.npz"
            chunk = _read(path, kept, extractor, settings.keep_images)
            if chunk is None:
                chosen = None if labels is None else labels[first : first + kept]
                chunk = _make(model, extractor, seed, first, kept, chosen)
                if not settings.keep_images:
                    few = _ON_PIXELS if data.small else _SHOWN
                    chunk["images"] = chunk["images"][: max(0, few - first)]
                files.save_arrays(path, chunk, compressed=False)
            features[first : first + kept] = chunk["features"]
            if first < _ON_PIXELS:
                first_images.append(chunk["images"])
            _add(stats, chunk, kept)
            bar.update(kept)
    return Generated(features, labels, np.concatenate(first_images)[:_ON_PIXELS], stats)


def _make(
    model: Model, extractor: Extractor, seed: int, first: int, count: int, labels: Int[np.ndarray, " batch"] | None
) -> dict[str, np.ndarray]:
    guidance = model.experiment.sample.guidance
    solved = model.solve_samples(jax.random.key(seed), count, labels, first=first, guidance=guidance)
    pixels = model.experiment.scaling.to_pixels(solved.y)
    cost = {name: np.asarray(getattr(solved.stats, name)) for name in _FIELDS}
    return {"images": pixels, "features": extractor(pixels), **cost}


def _read(path: pathlib.Path, count: int, extractor: Extractor, with_images: bool) -> dict[str, np.ndarray] | None:
    """A chunk of an earlier run; None where it is not there or not whole."""
    if not path.is_file():
        return None
    try:
        chunk = sums.read_arrays(path)
    except (OSError, sums.Damaged):  # the chunk is made anew
        return None
    whole = {"features", "images", *_FIELDS} <= chunk.keys() and chunk["features"].shape == (count, extractor.size)
    return chunk if whole and (len(chunk["images"]) == count or not with_images) else None


def _add(stats: SolveStats, chunk: dict[str, np.ndarray], count: int) -> None:
    stats.images += count
    stats.evaluations += [int(n) for n in chunk["evaluations"]]
    stats.rejected += [int(n) for n in chunk["rejected"]]
    stats.seconds += float(chunk["seconds"])
    stats.compile_seconds += float(chunk["compile_seconds"])


def _identity(model: Model, data: Data, seed: int, chunk: int) -> str:
    """A hash of all that the samples and their features depend on."""
    e = model.experiment
    facts = {
        "parameters": model.fingerprint,
        "base": {k: v for k, v in e.config["data"].items() if e.data.base and k != "path"},
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,  # so that figures of speed are of one machine
        "solver": {k: getattr(e.solver, k) for k in e.solver.__dataclass_fields__},
        "sampler": dataclasses.asdict(e.sampler) | {"denoise": e.sampler.denoises(e.path)},
        "guidance": e.sample.guidance,
        "labels": data.class_shares,
        "draws": randomness.VERSION,
        "rounding": e.scaling.rounding,
        "batch_size": model.batch_size,
        "extractor": data.extractor.facts,
        "seed": seed,
        "chunk": chunk,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _figures(generated: Generated, data: Data) -> dict[str, Any]:
    """All that is measured of one set of images."""
    cost = generated.stats.summary(network_calls(data.experiment.sample.guidance))
    figures = _of_features(generated.features, data)
    few = data.settings.first_images
    if 0 < few < len(generated.features):
        figures["frechet_distance_first"] = distances(generated.features[:few], data.reference, data.extractor)[
            "frechet_distance"
        ]
    elif few:
        figures["frechet_distance_first"] = figures["frechet_distance"]
    figures |= {"nfe": cost["nfe_mean"], "seconds_per_image": cost["seconds"] / cost["images"], "cost": cost}
    if data.small:
        images = data.experiment.scaling.from_eight_bits(generated.first)
        labels = None if generated.labels is None else generated.labels[: len(images)]
        figures |= on_pixels(images, labels, data)
    return figures


def _of_features(features: Features, data: Data) -> dict[str, Any]:
    return distances(features, data.reference, data.extractor) | _inception_score(features, data.extractor)


def distances(features: Features, reference: Statistics, extractor: Extractor) -> dict[str, Any]:
    """Frechet distance, KID, precision and recall of features against a reference; where one cannot be had, why."""
    own = covariance_of(features)
    figures: dict[str, Any] = {"frechet_distance": _frechet(own, reference, len(features), extractor)}
    if reference.features is None:
        why = "not measured: the reference is only a mean and a covariance"
        return figures | {"kid": why, "precision": why, "recall": why}
    fewest = min(len(features), len(reference.features))
    if fewest <= NEIGHBOURS:
        why = f"not measured: {fewest} images, expected more than {NEIGHBOURS} in each set"
        return figures | {"kid": why, "precision": why, "recall": why}
    kid = kernel_distance(features, reference.features)
    figures |= {"kid": kid.mean, "kid_std": None if math.isnan(kid.std) else kid.std}
    figures |= {"kid_subsets": kid.subsets, "kid_subset_size": kid.subset_size}
    return figures | precision_recall(features, reference.features)._asdict()


def _frechet(own: Gaussian | None, reference: Statistics, count: int, extractor: Extractor) -> float | str:
    if own is None or reference.gaussian is None:
        fewest = count if own is None else int(reference.facts["images"])
        return too_few(fewest, extractor.size)
    return frechet_distance(own, reference.gaussian)


def _inception_score(features: Features, extractor: Extractor) -> dict[str, Any]:
    if extractor.name != "inception":
        return {}
    if extractor.output is None:
        return {
            "inception_score": "not measured: these weights end at pool3; give a full file as config.eval.inception_weights"
        }
    if len(features) < 10:
        return {"inception_score": f"not measured: {len(features)} images are fewer than its 10 splits"}
    score = inception_score(features, extractor.output)
    return {"inception_score": score.mean, "inception_score_std": score.std}


def on_pixels(images: Float[np.ndarray, "_ ..."], labels: Int[np.ndarray, " _"] | None, data: Data) -> dict[str, Any]:
    """Spread within a class, distance to the nearest training image, and the share that a classifier recognizes."""
    train, _ = data.images("train")
    classes = labels if labels is not None else np.zeros(len(images), np.int32)
    try:
        nearest: float | str = nearest_distance(images, train)
    except ModuleNotFoundError:
        nearest = "not measured: scikit-learn is not installed"
    figures: dict[str, Any] = {"images_on_pixels": len(images), "nearest_training_distance": nearest}
    if np.bincount(classes).max() > 1:
        figures["within_class_std"] = within_class_std(images, classes)
    if data.judge is not None and labels is not None:
        figures["recognized"] = data.judge.share(images, labels)
    return figures


def _real(data: Data, count: int) -> dict[str, Any]:
    """The same of `count` test images: about what a perfect model would reach with as many."""
    held_out, chosen = data.statistics("test"), data.some(count)
    assert held_out.features is not None
    figures: dict[str, Any] = {"images": count, "split": held_out.facts["split"]}
    if data.settings.split == "test" and data.settings.reference is None:
        return figures | {"note": "not measured: the reference is these very images"}
    figures |= _of_features(held_out.features[chosen], data)
    if data.small:
        images, labels = data.images("test", chosen[:_ON_PIXELS])
        figures |= on_pixels(images, labels if data.experiment.conditional else None, data)
    return figures
