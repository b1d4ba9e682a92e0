"""Are generated images neither prototypes nor copies? Spread within a class, and distance to the nearest training image."""

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist

from scoreflow_jax.typing import HostState

_BLOCK = 256  # images whose distances to all others are held at a time


def within_class_std(images: HostState, labels: Int[np.ndarray, " batch"]) -> float:
    """The root of the variance of a pixel within its class, averaged over pixels and then over classes.

    Classes of fewer than two images are left out.

    Raises:
        ValueError: no class has two images.
    """
    variances = [
        np.var(np.asarray(images[labels == c], np.float64), axis=0, ddof=1).mean()
        for c in np.unique(labels)
        if np.sum(labels == c) > 1
    ]
    if not variances:
        raise ValueError("no class has two images, so there is no spread within a class: give more images")
    return float(np.sqrt(np.mean(variances)))


def nearest_distance(images: HostState, reference: Float[np.ndarray, "reference ..."]) -> float:
    """The mean over images of the Euclidean distance to the nearest reference image.

    Raises:
        ModuleNotFoundError: scikit-learn is missing.
    """
    from sklearn.neighbors import NearestNeighbors

    flat = lambda x: np.asarray(x, np.float32).reshape(len(x), -1)  # noqa: E731
    distances, _ = NearestNeighbors(n_neighbors=1).fit(flat(reference)).kneighbors(flat(images))
    return float(distances.mean())


def nearest_by_products(
    features: Float[np.ndarray, "batch features"], reference: Float[np.ndarray, "reference features"]
) -> tuple[Float[np.ndarray, " batch"], Int[np.ndarray, " batch"]]:
    """Like `nearest`, for long vectors: distances by matrix products, which lose those far below the vectors' length.

    Raises:
        ModuleNotFoundError: scikit-learn is missing.
    """
    from sklearn.metrics import pairwise_distances_argmin_min

    numbers, distances = pairwise_distances_argmin_min(features, reference)
    return distances, numbers


def nearest(
    images: HostState, reference: Float[np.ndarray, "reference ..."]
) -> tuple[Float[np.ndarray, " batch"], Int[np.ndarray, " batch"]]:
    """Finds for each image the Euclidean distance to the nearest reference image, and the number of that one."""
    flat = lambda x: np.reshape(x, (len(x), -1))  # noqa: E731
    distances, numbers = [], []
    for first in range(0, len(images), _BLOCK):
        found = cdist(flat(images[first : first + _BLOCK]), flat(reference))
        numbers.append(found.argmin(axis=1))
        distances.append(found.min(axis=1))
    return np.concatenate(distances), np.concatenate(numbers)


def distances_to_sources(
    translated: HostState,
    sources: HostState,
    labels: Int[np.ndarray, " batch"],
    identity: Int[np.ndarray, " batch"] | None = None,
) -> tuple[float, float]:
    """Does a translation keep something of its own source?

    Args:
        translated: translations, in the order of their sources.
        sources: the images that were translated.
        labels: classes of the sources.
        identity: a number for each source, where one may stand there several times.

    Returns:
        The mean Euclidean distance of a translation to its own source, and to the other sources of the same class (NaN
        where no class has two).
    """
    flat = lambda x: np.asarray(x, np.float64).reshape(len(x), -1)  # noqa: E731
    distances = cdist(flat(translated), flat(sources))
    same = np.arange(len(labels)) if identity is None else identity
    others = (labels[:, None] == labels[None, :]) & (same[:, None] != same[None, :])
    return float(np.diag(distances).mean()), float(distances[others].mean()) if others.any() else float("nan")
