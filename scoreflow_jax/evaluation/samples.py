"""Generated images with what they cost, made in chunks that are kept, and their distances to real ones."""

import dataclasses
import hashlib
import json
import math
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from scoreflow_jax import files, randomness, sums
from scoreflow_jax.evaluation.base import Data, Figures, Model
from scoreflow_jax.evaluation.extractors import Extractor
from scoreflow_jax.evaluation.features import CHUNK
from scoreflow_jax.evaluation.statistics import Statistics, covariance_of, too_few
from scoreflow_jax.metrics.diversity import nearest_distance, within_class_std
from scoreflow_jax.metrics.frechet import Gaussian, frechet_distance
from scoreflow_jax.metrics.inception_score import inception_score
from scoreflow_jax.metrics.kernel import kernel_distance
from scoreflow_jax.metrics.precision_recall import NEIGHBOURS, precision_recall
from scoreflow_jax.metrics.recognition import FeatureRecognizer
from scoreflow_jax.progress import progress
from scoreflow_jax.sampling import SolveStats
from scoreflow_jax.typing import HostState, Stored

_FIELDS = ("evaluations", "rejected", "seconds", "compile_seconds")
_SHOWN = 100  # images of large ones that are kept for grid.png where not all are
ON_PIXELS = 1000
"""Images of which spread and neighbours are measured."""

Features = Float[np.ndarray, "batch features"]


class Generated(NamedTuple):
    """Generated images as they are held: features of all, and the first of them.

    Attributes:
        features: in the order of the samples' numbers.
        labels: classes; None for an unconditional model.
        first: the first images, as many as were kept, up to `ON_PIXELS`.
        stats: what they cost, those of earlier runs of the same evaluation included.
    """

    features: Features
    labels: Int[np.ndarray, " batch"] | None
    first: Stored
    stats: SolveStats


def generate(model: Model, data: Data, out: pathlib.Path, seed: int) -> Generated:
    """Generates `config.eval.generation.images` samples in chunks that are kept, so that a stopped evaluation goes on.

    Never more than a chunk is held as float. Sample i is the same whatever the chunk; chunks are whole batches.

    Args:
        model: to sample from.
        data: has the settings, the classes' shares and the extractor of features.
        out: the folder of the report; the chunks go to samples/ in it.
        seed: of the samples' noise.
    """
    settings, extractor = data.settings.generation, data.extractor
    count, batch = model.at_most(settings.images), data.settings.batch_size
    size = batch * max(1, CHUNK // batch)
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
                    few = ON_PIXELS if data.small else _SHOWN
                    chunk["images"] = chunk["images"][: max(0, few - first)]
                files.save_arrays(path, chunk, compressed=False)
            features[first : first + kept] = chunk["features"]
            if first < ON_PIXELS:
                first_images.append(chunk["images"])
            _add(stats, chunk, kept)
            bar.update(kept)
    return Generated(features, labels, np.concatenate(first_images)[:ON_PIXELS], stats)


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
        "solver": e.solver.stated,
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


def of_features(features: Features, data: Data) -> Figures:
    """Distances to the reference, and the Inception Score."""
    return distances(features, data.reference, data.extractor) | _inception_score(features, data.extractor)


def distances(features: Features, reference: Statistics, extractor: Extractor) -> dict[str, Any]:
    """Frechet distance, KID, precision and recall of features against a reference; where one cannot be had, why.

    Args:
        features: of the samples, (samples, features).
        reference: what they are compared with.
        extractor: that made the features of both.
    """
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
    """Measures spread within a class, distance to the nearest training image, and the share that a classifier recognizes.

    Args:
        images: in [-1, 1], (batch, ...).
        labels: the class of each; None: there are none, and the spread is that of all.
        data: has the training images and the classifier.
    """
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


def recognized_by_features(features: Features, labels: Int[np.ndarray, " _"] | None, data: Data) -> dict[str, float]:
    """Measures the share that a classifier of features recognizes; nothing where there is none, or one of pixels.

    Args:
        features: of the images.
        labels: the class of each; None: there are none.
        data: has the classifier.
    """
    if labels is None or not isinstance(data.judge, FeatureRecognizer):
        return {}
    return {"recognized": float(np.mean(data.judge.predict_features(features) == labels))}


def of_samples(
    y: HostState, exact: HostState, labels: Int[np.ndarray, " batch"] | None, data: Data
) -> dict[str, float]:
    """How far samples are from the ODE's solutions of the same noise, and from the data.

    Args:
        y: samples in [-1, 1], or standardized points.
        exact: the solutions.
        labels: classes; None for an unconditional model.
        data: has the reference, the extractor and the classifier.
    """
    found = {"rms_difference": float(np.sqrt(np.mean(np.square(y - exact, dtype=np.float64))))}
    pixels = data.experiment.scaling.to_pixels(y)
    reference = data.reference
    if reference.gaussian is not None and len(y) > data.extractor.size:
        own = covariance_of(data.extractor(pixels))
        if own is not None:
            found["frechet_distance"] = frechet_distance(own, reference.gaussian)
    if data.judge is not None and labels is not None:
        found["recognized"] = data.judge.share(data.experiment.scaling.from_eight_bits(pixels), labels)
    return found
