"""Are generated images recognized as what they should be? A classifier trained on real images decides."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from scoreflow_jax.errors import UserError
from scoreflow_jax.typing import HostState

HostLabels = Int[np.ndarray, " batch"]
Features = Float[np.ndarray, "batch features"]

_PENALTY = 0.02


class Recognizer(abc.ABC):
    """A classifier that was trained on real images."""

    description: ClassVar[str]
    """What it is, for reports."""

    @abc.abstractmethod
    def predict(self, images: HostState) -> HostLabels:
        """The recognized class of each image in [-1, 1]."""

    def share(self, images: HostState, labels: HostLabels) -> float:
        """The share of images recognized as their label, in [0, 1]."""
        return float(np.mean(self.predict(images) == labels))


class PixelRecognizer(Recognizer):
    """A support vector classifier on pixels: about 98.5 % right on held-out 8x8 digits."""

    description = (
        "support vector classifier, RBF kernel, C = 10, gamma = 'scale', on pixels, trained on the real training split"
    )

    def __init__(self, images: HostState, labels: HostLabels) -> None:
        """Trains on real images in [-1, 1].

        Raises:
            UserError: scikit-learn is missing.
        """
        self._classifier = _sklearn("svm").SVC(C=10.0, gamma="scale").fit(_flat(images), labels)

    def predict(self, images: HostState) -> HostLabels:
        """See `Recognizer.predict`."""
        return self._classifier.predict(_flat(images))


class FeatureRecognizer(Recognizer):
    """Logistic regression on an extractor's features, for photographs, whose pixels say little.

    A linear classifier on a pretrained network's features: what is called a linear probe.
    """

    description = (
        f"logistic regression, penalty {_PENALTY} |w|^2 / 2 beside the mean loss, on the extractor's features, each "
        "standardized, of the real training split"
    )

    def __init__(self, compute: Callable[[HostState], Features], features: Features, labels: HostLabels) -> None:
        """Trains on features of real images.

        Args:
            compute: from images in [-1, 1] to such features.
            features: of the images.
            labels: their classes.

        Raises:
            UserError: scikit-learn is missing.
        """
        self._compute = compute
        linear, scaled = _sklearn("linear_model"), _sklearn("preprocessing").StandardScaler()
        classifier = linear.LogisticRegression(C=1 / (_PENALTY * len(labels)), max_iter=300)
        self._classifier = _sklearn("pipeline").make_pipeline(scaled, classifier).fit(features, labels)

    def predict(self, images: HostState) -> HostLabels:
        """See `Recognizer.predict`."""
        return self.predict_features(self._compute(images))

    def predict_features(self, features: Features) -> HostLabels:
        """The recognized class of each image whose features are at hand."""
        return self._classifier.predict(features)


def _sklearn(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise UserError(
            "the classifier comes with scikit-learn, which is not installed: pip install scikit-learn, or set "
            "config.eval.classifier to False"
        ) from error


def _flat(images: HostState) -> np.ndarray:
    return np.asarray(images, np.float64).reshape(len(images), -1)
