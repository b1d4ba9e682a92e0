"""The Frechet distance between two sets of feature vectors, from their means and covariances."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from scoreflow_jax.errors import UserError

Features = Float[np.ndarray, "batch features"]


class Gaussian(NamedTuple):
    """Mean and covariance, float64."""

    mean: Float[np.ndarray, " features"]
    covariance: Float[np.ndarray, "features features"]


@dataclasses.dataclass
class Moments:
    """Running sums of features in float64: add batches in any order, then read mean and covariance.

    Attributes:
        count: vectors added.
        total: their sum.
        outer: the sum of their outer products.
    """

    count: int = 0
    total: Float[np.ndarray, " features"] | float = 0.0
    outer: Float[np.ndarray, "features features"] | float = 0.0

    def add(self, features: Features) -> "Moments":
        """Adds a batch, and returns itself."""
        x = np.asarray(features, np.float64)
        self.count += len(x)
        self.total = self.total + x.sum(axis=0)
        self.outer = self.outer + x.T @ x
        return self

    def mean(self) -> Float[np.ndarray, " features"]:
        """The mean vector."""
        return np.asarray(self.total) / self.count

    def covariance(self) -> Float[np.ndarray, "features features"]:
        """The unbiased covariance, as numpy.cov.

        Raises:
            UserError: fewer than two vectors.
        """
        if self.count < 2:
            raise UserError(f"a covariance of {self.count} images: expected at least 2")
        mean = self.mean()
        return (np.asarray(self.outer) - self.count * np.outer(mean, mean)) / (self.count - 1)


def gaussian_of(features: Features, batch_size: int = 4096) -> Gaussian:
    """Mean and unbiased covariance of feature vectors, summed in float64 a batch at a time."""
    moments = Moments()
    for first in range(0, len(features), batch_size):
        moments.add(features[first : first + batch_size])
    return Gaussian(moments.mean(), moments.covariance())


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Returns |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Dowson and Landau 1982; Heusel et al. 2017, eq. 6).

    The trace of the root is the sum of the roots of the eigenvalues of C_a^(1/2) C_b C_a^(1/2), which is symmetric: no
    general matrix square root with its spurious imaginary parts.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root_a = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root_a @ b.covariance @ root_a)
    root_trace = np.sqrt(np.maximum(eigenvalues, 0.0)).sum()
    shift = a.mean - b.mean
    return float(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * root_trace)
