"""The Inception Score (Salimans et al. 2016, arXiv:1606.03498): are images recognizable, and of many classes?"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax, logsumexp

from scoreflow_jax.errors import UserError


class InceptionScore(NamedTuple):
    """Mean and standard deviation over the splits."""

    mean: float
    std: float


def inception_score(
    features: Float[np.ndarray, "batch features"], output: Float[np.ndarray, "features classes"], splits: int = 10
) -> InceptionScore:
    """exp of the mean KL divergence between an image's class probabilities and those of its split.

    Args:
        features: of the images, in the order in which they were generated.
        output: from features to the logits of the classes.
        splits: consecutive parts, each scored by itself, as published.

    Raises:
        UserError: fewer images than splits.
    """
    if len(features) < splits:
        raise UserError(f"an Inception Score of {len(features)} images in {splits} splits: expected at least {splits}")
    scores = []
    for some in np.array_split(features, splits):  # one at a time: the logits of 50,000 images are large
        part = log_softmax(np.asarray(some @ output, np.float64), axis=1)
        log_mean = logsumexp(part, axis=0) - np.log(len(part))
        scores.append(np.exp(np.mean(np.sum(np.exp(part) * (part - log_mean), axis=1))))
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))
