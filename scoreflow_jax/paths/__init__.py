"""Paths between the source and the data: `base.py` holds the contract, one member a file."""

from scoreflow_jax.paths.base import AffinePath, Path, Prediction
from scoreflow_jax.paths.linear import LinearPath

PATHS: dict[str, type[Path]] = {"linear": LinearPath}
"""Every path by the name that `config.path.name` gives it."""

__all__ = ["PATHS", "AffinePath", "LinearPath", "Path", "Prediction"]
