"""Features of a whole data set, computed in chunks that are kept: a run that was stopped goes on, another one reads them.

A chunk's file is named by the extractor and by the sha256 of the chunk's pixels. So nothing has to be trusted: other data,
another order or another extractor is another file.
"""

import hashlib
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int32

from scoreflow_jax import files, processes, sums
from scoreflow_jax.data import DataSource
from scoreflow_jax.evaluation.extractors import Extractor
from scoreflow_jax.pixels import to_pixels, to_unit_range_host
from scoreflow_jax.progress import progress
from scoreflow_jax.typing import Stored

CHUNK = 500
"""Images in a file: what a stop costs at most."""


class DataFeatures(NamedTuple):
    """Features of a data set, in its order.

    Attributes:
        features: float32.
        labels: classes.
        sha256: of all pixels and labels.
    """

    features: Float[np.ndarray, "batch features"]
    labels: Int32[np.ndarray, " batch"]
    sha256: str


def data_features(source: DataSource, extractor: Extractor, folder: pathlib.Path, name: str) -> DataFeatures:
    """Features of every image of a source, read from `folder` where they are there already.

    Args:
        source: the data.
        extractor: of features.
        folder: the cache.
        name: for the progress bar.
    """
    digest, first = hashlib.sha256(), 0
    features, labels = np.empty((len(source), extractor.size), np.float32), np.empty(len(source), np.int32)
    with progress(f"features of {name}", len(source), " images") as bar:
        for pixels, chunk_labels in _chunks(source):
            own = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()
            last = first + len(pixels)
            features[first:last] = _cached(pixels, extractor, folder / extractor.identity / own[:2] / f"{own}.npz")
            labels[first:last] = chunk_labels
            first = last
            digest.update(own.encode() + chunk_labels.tobytes())
            bar.update(len(pixels))
    return DataFeatures(features, labels, digest.hexdigest())


def _chunks(source: DataSource) -> Iterator[tuple[Stored, Int32[np.ndarray, " batch"]]]:
    """The source's images, 8-bit, and labels, `CHUNK` at a time."""
    for first in range(0, len(source), CHUNK):
        examples = source.read(np.arange(first, min(first + CHUNK, len(source))))
        pixels = examples["image"]
        if source.spec.levels not in (0, 256):
            pixels = to_pixels(to_unit_range_host(pixels, source.spec.levels))
        yield pixels, examples["label"]


def _cached(pixels: Stored, extractor: Extractor, path: pathlib.Path) -> Float[np.ndarray, "batch features"]:
    kept = _kept(path, (len(pixels), extractor.size))
    if processes.all_agree(kept is not None):  # each host has its own cache, but all compute together or none does
        return kept  # type: ignore[return-value]
    features = extractor(pixels)
    files.save_arrays(path, {"features": features}, compressed=False)
    return features


def _kept(path: pathlib.Path, shape: tuple[int, int]) -> Float[np.ndarray, "batch features"] | None:
    if not path.is_file():
        return None
    try:
        features = sums.read_arrays(path)["features"]
    except (OSError, KeyError, sums.Damaged):  # they are computed anew
        return None
    return features if features.shape == shape and features.dtype == np.float32 else None
