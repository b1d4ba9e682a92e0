"""Training losses: `base.py` holds the contract, one member a file."""

from scoreflow_jax.objectives.base import Objective
from scoreflow_jax.objectives.denoising import DenoisingScoreMatching
from scoreflow_jax.objectives.distillation import Distillation
from scoreflow_jax.objectives.flow_map import FlowMap
from scoreflow_jax.objectives.interpolant import Interpolant, turned
from scoreflow_jax.objectives.path_constrained import PathConstrained

OBJECTIVES = {
    "path_constrained": PathConstrained,
    "denoising_score_matching": DenoisingScoreMatching,
    "interpolant": Interpolant,
    "distillation": Distillation,
    "flow_map": FlowMap,
}
"""Every objective by the name that `config.objective.name` gives it."""

__all__ = [
    "OBJECTIVES",
    "DenoisingScoreMatching",
    "Distillation",
    "FlowMap",
    "Interpolant",
    "Objective",
    "PathConstrained",
    "turned",
]
