"""Types of arrays on the host, for modules that do not import JAX; `typing.py` has them too."""

import numpy as np
from jaxtyping import Float, UInt8

HostImages = Float[np.ndarray, "batch height width channel"]
"""Images on the host: float32, in [-1, 1] where they are data."""

Pixels = UInt8[np.ndarray, "batch height width channel"]
"""8-bit pixels: only at the two ends, when data are read and when pictures are written."""

HostState = Float[np.ndarray, "batch ..."]
"""Images or points on the host."""

Stored = Pixels | Float[np.ndarray, "batch dimension"]
"""What data hold and users get: 8-bit pixels, or points of a table, standardized."""

HostPoints = Float[np.ndarray, "points dimension"]
"""Points of a table, or of a picture of them."""
