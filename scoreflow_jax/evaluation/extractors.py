"""From 8-bit images to the feature vectors that distances between sets of images are measured on."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.weights import find_inception
from scoreflow_jax.models.inception import FEATURES, RESIZES, pool3
from scoreflow_jax.models.inception_weights import import_inception
from scoreflow_jax.parallel import make_layout, shard
from scoreflow_jax.torch_files import read_torch_file
from scoreflow_jax.typing import Pixels, Stored

RELEASED_NAME = "Inception-v3 of 2015-12-05, pool3"
"""What FID is measured on."""

LARGEST_PIXELS = 4096
"""Numbers of an image beyond which the pixel extractor is refused: a covariance of more is large and means little."""


def distance_name(extractor: dict[str, Any]) -> str:
    """FID is only what is measured on the released network's features."""
    name = extractor["extractor"]
    return "FID" if name == RELEASED_NAME else f"Frechet distance on {name}"


@dataclasses.dataclass(frozen=True)
class Extractor:
    """Turns images into features.

    Attributes:
        name: as `config.eval.extractor` calls it.
        facts: what a report says of it; everything that its features depend on.
        size: numbers of a feature vector.
        batch_size: images computed at a time, in one compiled program.
        output: (size, classes), from features to the class logits of the Inception Score; None where there are none.
    """

    name: str
    facts: dict[str, Any]
    size: int
    batch_size: int
    compute: Callable[[Any], Any]
    output: Float[np.ndarray, "size classes"] | None = None

    @property
    def identity(self) -> str:
        """A hash of its facts: equal for extractors whose features agree."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:16]

    def __call__(self, pixels: Stored) -> Float[np.ndarray, "batch features"]:
        """Features of 8-bit images, computed in batches of one size, the last one padded."""
        found = []
        for first in range(0, len(pixels), self.batch_size):
            batch = pixels[first : first + self.batch_size]
            padded = np.concatenate([batch, np.repeat(batch[-1:], self.batch_size - len(batch), axis=0)])
            found.append(np.asarray(self.compute(padded), np.float32)[: len(batch)])
        return np.concatenate(found)


def pixel_extractor(shape: tuple[int, ...]) -> Extractor:
    """The pixels themselves, in [-1, 1], for images on which Inception means nothing; the coordinates of points.

    Raises:
        UserError: images of more than `LARGEST_PIXELS` numbers.
    """
    size = int(np.prod(shape))
    if size > LARGEST_PIXELS:
        raise UserError(
            f"config.eval.extractor is pixels, but images have {size} numbers, more than {LARGEST_PIXELS}: use inception"
        )
    if len(shape) == 1:
        facts = {"extractor": "standardized coordinates", "shape": list(shape)}
        return Extractor("pixels", facts, size, 1024, lambda x: x)
    facts = {"extractor": "pixels", "shape": list(shape)}
    return Extractor("pixels", facts, size, 1024, lambda x: x.reshape(len(x), -1) / np.float32(127.5) - np.float32(1))


def inception_extractor(weights: str | None = None, resize: str = "tensorflow") -> Extractor:
    """Inception-v3's pool3.

    Args:
        weights: a file (see `weights.find_inception` for what happens without one).
        resize: a name in `models.inception.RESIZES`.

    Raises:
        UserError: no weights, or a file that holds others.
    """
    file = find_inception(weights)
    try:
        found = import_inception(read_torch_file(file))
    except ValueError as error:
        raise UserError(f"{file} does not hold Inception's weights: {error}") from error
    facts = {
        "extractor": RELEASED_NAME if found.released else "Inception-v3 with other weights, pool3",
        "weights_sha256": found.fingerprint,
        "resize": RESIZES[resize],
        "computation": "float32, BatchNorms folded, version 1",  # raised when a change would change features
    }
    layout = make_layout()
    shardings = {"in_shardings": (layout.replicated, layout.batch), "out_shardings": layout.replicated}
    compiled = jax.jit(pool3, static_argnums=2, **shardings)  # type: ignore[arg-type]
    params = jax.device_put(found.params, layout.replicated)

    def compute(pixels: Pixels) -> Any:
        """pool3; grey images are repeated to three channels."""
        return compiled(params, shard(np.broadcast_to(pixels, (*pixels.shape[:3], 3)), layout), resize)

    # On a CPU small batches stay in its caches.
    batch_size = (8 if jax.default_backend() == "cpu" else 128) * layout.mesh.size
    return Extractor("inception", facts, FEATURES, batch_size, compute, found.output)
