"""Are generated images recognized as what they should be? A classifier trained on real images decides."""

import numpy as np
from jaxtyping import Int

from scoreflow_jax.errors import UserError
from scoreflow_jax.typing import HostState

HostLabels = Int[np.ndarray, " batch"]

DESCRIPTION = (
    "support vector classifier, RBF kernel, C = 10, gamma = 'scale', on pixels, trained on the real training split"
)


class Recognizer:
    """A support vector classifier on pixels: about 98.5 % right on held-out 8x8 digits."""

    def __init__(self, images: HostState, labels: HostLabels) -> None:
        """Trains on real images in [-1, 1].

        Raises:
            UserError: scikit-learn is missing.
        """
        try:
            from sklearn.svm import SVC
        except ImportError as error:
            raise UserError(
                "the classifier comes with scikit-learn, which is not installed: pip install scikit-learn, or set "
                "config.eval.classifier to False"
            ) from error
        self._classifier = SVC(C=10.0, gamma="scale").fit(_flat(images), labels)

    def predict(self, images: HostState) -> HostLabels:
        """The recognized class of each image."""
        return self._classifier.predict(_flat(images))

    def share(self, images: HostState, labels: HostLabels) -> float:
        """The share of images recognized as their label, in [0, 1]."""
        return float(np.mean(self.predict(images) == labels))


def _flat(images: HostState) -> np.ndarray:
    return np.asarray(images, np.float64).reshape(len(images), -1)
