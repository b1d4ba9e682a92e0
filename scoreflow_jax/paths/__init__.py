"""Paths between the source and the data: `base.py` holds the contract, one member a file, or a family of them."""

from scoreflow_jax.paths.base import AffinePath, Path, per_example
from scoreflow_jax.paths.learned import LearnedPath
from scoreflow_jax.paths.linear import LinearPath
from scoreflow_jax.paths.parameterization import NetworkDrift, Parameterization
from scoreflow_jax.paths.trigonometric import TrigonometricPath
from scoreflow_jax.paths.variance_exploding import VEPath
from scoreflow_jax.paths.variance_preserving import DDPMPath, SubVPPath, VariancePreservingPath, VPPath
from scoreflow_jax.settings.path import Prediction

PATHS: dict[str, type[Path]] = {
    "linear": LinearPath,
    "trigonometric": TrigonometricPath,
    "variance_preserving": VariancePreservingPath,
    "vp": VPPath,
    "sub_vp": SubVPPath,
    "ve": VEPath,
    "ddpm": DDPMPath,
    "learned": LearnedPath,
}
"""Every path by the name that `config.path.name` gives it."""

__all__ = [
    "PATHS",
    "AffinePath",
    "DDPMPath",
    "LearnedPath",
    "LinearPath",
    "NetworkDrift",
    "Parameterization",
    "Path",
    "Prediction",
    "SubVPPath",
    "TrigonometricPath",
    "VEPath",
    "VPPath",
    "VariancePreservingPath",
    "per_example",
]
