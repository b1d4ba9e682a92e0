"""The Frechet distance between two sets of feature vectors, from their moments."""

import dataclasses

import numpy as np
from jaxtyping import Float

from scoreflow_jax.errors import UserError

Features = Float[np.ndarray, "batch features"]


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


def frechet_distance(a: Moments, b: Moments) -> float:
    """Returns |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Dowson and Landau 1982; Heusel et al. 2017, eq. 6).

    The trace of the root is the sum of the roots of the eigenvalues of C_a^(1/2) C_b C_a^(1/2), which is symmetric: no
    general matrix square root with its spurious imaginary parts.
    """
    covariance_a, covariance_b = a.covariance(), b.covariance()
    values, vectors = np.linalg.eigh(covariance_a)
    root_a = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root_a @ covariance_b @ root_a)
    root_trace = np.sqrt(np.maximum(eigenvalues, 0.0)).sum()
    shift = a.mean() - b.mean()
    return float(shift @ shift + np.trace(covariance_a) + np.trace(covariance_b) - 2.0 * root_trace)
