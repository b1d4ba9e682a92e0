"""KID: the squared maximum mean discrepancy of two sets of feature vectors (Binkowski et al. 2018, arXiv:1801.01401)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from scoreflow_jax.errors import UserError

Features = Float[np.ndarray, "_ features"]


class KernelDistance(NamedTuple):
    """KID over subsets.

    Attributes:
        mean: of the subsets' unbiased estimates.
        std: of them; NaN for a single one.
        subsets, subset_size: how many of how many vectors of each set.
    """

    mean: float
    std: float
    subsets: int
    subset_size: int


def squared_mmd(x: Features, y: Features) -> float:
    """The unbiased estimate of MMD^2 with the kernel k(a, b) = (a.b / d + 1)^3, d the number of features.

    The sums over pairs within a set leave out the pairs of a vector with itself, so its mean is 0 where both sets are of one
    distribution; it may be negative.

    Raises:
        UserError: fewer than two vectors in a set.
    """
    if min(len(x), len(y)) < 2:
        raise UserError(f"KID of {len(x)} and {len(y)} images: expected at least 2 in each set")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    kernel = lambda a, b: (a @ b.T / a.shape[1] + 1.0) ** 3  # noqa: E731
    within = lambda k: (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))  # noqa: E731
    return float(within(kernel(x, x)) + within(kernel(y, y)) - 2.0 * kernel(x, y).mean())


def kernel_distance(
    x: Features, y: Features, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """KID as it is published: mean and spread of `squared_mmd` over random subsets, drawn without replacement.

    Two sets of at most four subsets' size are taken whole, once. Of a set smaller than a subset all is taken each time, and as
    many of the other.

    Args:
        x, y: the two sets.
        subsets: how many are drawn.
        subset_size: how many vectors of each set are in one.
        seed: of the draws.
    """
    if max(len(x), len(y)) <= 4 * subset_size:
        return KernelDistance(squared_mmd(x, y), float("nan"), 1, min(len(x), len(y)))
    size = min(len(x), len(y), subset_size)
    rng = np.random.default_rng(seed)
    draw = lambda z: z[rng.choice(len(z), size, replace=False)]  # noqa: E731
    found = [squared_mmd(draw(x), draw(y)) for _ in range(subsets)]
    return KernelDistance(float(np.mean(found)), float(np.std(found, ddof=1)), subsets, size)
