"""Networks: `base.py` holds the contract, one architecture a file. The only package that knows flax.linen."""

from scoreflow_jax.models.base import (
    Network,
    float32_compute,
    init_parameters,
    make_drift,
    num_parameters,
    parameter_shapes,
)
from scoreflow_jax.models.ncsnpp import NCSNpp

MODELS: dict[str, type[Network]] = {"ncsnpp": NCSNpp}
"""Every network by the name that `config.model.name` gives it."""

__all__ = [
    "MODELS",
    "NCSNpp",
    "Network",
    "float32_compute",
    "init_parameters",
    "make_drift",
    "num_parameters",
    "parameter_shapes",
]
