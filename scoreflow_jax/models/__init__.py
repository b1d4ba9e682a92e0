"""Networks: `base.py` holds the contract, one architecture a file. The only package that knows flax.linen."""

from scoreflow_jax.models.base import (
    Network,
    computing_in,
    init_parameters,
    make_drift,
    num_parameters,
    parameter_shapes,
)
from scoreflow_jax.models.inception import RESIZES
from scoreflow_jax.models.mlp import MLP
from scoreflow_jax.models.ncsnpp import NCSNpp
from scoreflow_jax.models.portable import portable
from scoreflow_jax.models.published import PublishedEntry, export_published, import_published, published_entries

MODELS: dict[str, type[Network]] = {"ncsnpp": NCSNpp, "mlp": MLP}
"""Every network by the name that `config.model.name` gives it."""

__all__ = [
    "MLP",
    "MODELS",
    "RESIZES",
    "NCSNpp",
    "Network",
    "PublishedEntry",
    "computing_in",
    "export_published",
    "import_published",
    "init_parameters",
    "make_drift",
    "num_parameters",
    "parameter_shapes",
    "portable",
    "published_entries",
]
