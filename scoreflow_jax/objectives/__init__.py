"""Training losses: `base.py` holds the contract, one member a file."""

from scoreflow_jax.objectives.base import Objective
from scoreflow_jax.objectives.path_constrained import PathConstrained

OBJECTIVES = {"path_constrained": PathConstrained}
"""Every objective by the name that `config.objective.name` gives it."""

__all__ = ["OBJECTIVES", "Objective", "PathConstrained"]
