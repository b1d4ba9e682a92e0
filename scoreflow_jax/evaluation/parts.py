"""The table of what an evaluation can measure."""

from scoreflow_jax.evaluation.audit import Audit
from scoreflow_jax.evaluation.base import Part
from scoreflow_jax.evaluation.density_classifier import DensityClassifier
from scoreflow_jax.evaluation.density_cost import DensityCost
from scoreflow_jax.evaluation.few_calls import FewCalls
from scoreflow_jax.evaluation.generation import Generation
from scoreflow_jax.evaluation.likelihood import Likelihood
from scoreflow_jax.evaluation.outliers import Outliers
from scoreflow_jax.evaluation.residual import Residual
from scoreflow_jax.evaluation.reversibility import Reversibility
from scoreflow_jax.evaluation.score_difference import ScoreDifference
from scoreflow_jax.evaluation.straightness import Straightness
from scoreflow_jax.evaluation.sweep import Sweep
from scoreflow_jax.evaluation.translation import Translation
from scoreflow_jax.evaluation.truncation import Truncation

PARTS: dict[str, type[Part]] = {
    "generation": Generation,
    "reversibility": Reversibility,
    "translation": Translation,
    "few_calls": FewCalls,
    "likelihood": Likelihood,
    "sweep": Sweep,
    "truncation": Truncation,
    "straightness": Straightness,
    "residual": Residual,
    "density_cost": DensityCost,
    "density_classifier": DensityClassifier,
    "outliers": Outliers,
    "score_difference": ScoreDifference,
    "audit": Audit,
}
"""Every part by the name of its section in `config.eval`, in the order of the page."""
