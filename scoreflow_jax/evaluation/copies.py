"""Are generated photographs copies? Their nearest training images by features, beside those of held-out images."""

import pathlib

import numpy as np
from jaxtyping import Float, Int

from scoreflow_jax import files
from scoreflow_jax.evaluation.base import Data, Figures
from scoreflow_jax.evaluation.samples import ON_PIXELS, Generated
from scoreflow_jax.metrics.diversity import nearest_by_products

_SHOWN = 10
_QUANTILE = 0.01

Distances = Float[np.ndarray, " first"]


def known_training_features(data: Data) -> bool:
    """Whether the features of the training split are at hand, since they are what is compared with."""
    return data.settings.split == "train" and data.settings.reference is None


def nearest_training(
    features: Float[np.ndarray, "batch features"], data: Data
) -> tuple[Distances, Int[np.ndarray, " first"]]:
    """Distance by features to the nearest training image, and its number, of the first images, at most `ON_PIXELS`."""
    training = data.statistics("train").features
    assert training is not None
    return nearest_by_products(features[:ON_PIXELS], training)


def find_copies(path: pathlib.Path, generated: Generated, data: Data) -> tuple[Figures, Figures]:
    """Measures how near generated images are to training images, and draws the nearest pairs.

    Args:
        path: of the picture: generated images, and below each the training image nearest to it.
        generated: the images.
        data: has the training images.

    Returns:
        Figures of the generated and of held-out images: `nearest_training_feature_distance`, the mean; and of the generated
        `nearer_than_held_out`, the share that is nearer than all but one in a hundred held-out images: 0.01 of a model that
        copies no more than they do.
    """
    from scoreflow_jax import figures

    held_out = data.statistics("test").features
    assert held_out is not None
    try:
        distances, numbers = nearest_training(generated.features, data)
        real, _ = nearest_training(held_out[data.some(ON_PIXELS)], data)
    except ModuleNotFoundError:
        unknown = {"nearest_training_feature_distance": "not measured: scikit-learn is not installed"}
        return unknown, unknown
    closest = np.argsort(distances[: len(generated.first)], kind="stable")[:_SHOWN]
    to_images = data.experiment.scaling.from_eight_bits
    rows = [to_images(generated.first[closest]), data.images("train", numbers[closest])[0]]
    with files.whole_file(path) as temporary:
        figures.save_rows(
            temporary, rows, captions=["generated", "nearest"], heads=[f"{d:.1f}" for d in distances[closest]]
        )
    share = float(np.mean(distances < np.quantile(real, _QUANTILE)))
    mean = lambda found: {"nearest_training_feature_distance": float(found.mean())}  # noqa: E731
    return mean(distances) | {"nearer_than_held_out": share}, mean(real)
