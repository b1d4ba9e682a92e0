"""scoreflow_jax: reversible generative modelling with ODEs, after ScoreFlow (2023).

Names are imported when first used, so that `import scoreflow_jax` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scoreflow_jax.errors import UserError as UserError
    from scoreflow_jax.loading import load as load
    from scoreflow_jax.model import Model as Model
    from scoreflow_jax.pixels import to_pixels as to_pixels

__version__ = "0.1.0"

_WHERE = {
    "Model": "scoreflow_jax.model",
    "UserError": "scoreflow_jax.errors",
    "load": "scoreflow_jax.loading",
    "to_pixels": "scoreflow_jax.pixels",
}

__all__ = ["Model", "UserError", "__version__", "load", "to_pixels"]


def __getattr__(name: str) -> Any:
    """Imports a public name on first use."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
