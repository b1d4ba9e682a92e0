"""Not speed: how far JPEG alone takes pictures from themselves, on Inception's features (docs/results.md).

    python -m benchmarks.jpeg --images FILE.npz [--count 2500] [--qualities 95 75 50]

FILE holds an array of 8-bit RGB images. The first half stays as it is, the second is compressed by Pillow and decoded again: a
distance between the halves is what a perfect model without compression would be found to have against a JPEG reference. The
squared distance of the means, of the same pictures with and without, is the least that FID can be, and known from few. Prints a
JSON line for each.
"""

import argparse
import io
import json
from typing import Any

import numpy as np
from PIL import Image

from scoreflow_jax.evaluation.extractors import Extractor, inception_extractor
from scoreflow_jax.evaluation.statistics import covariance_of
from scoreflow_jax.metrics.frechet import frechet_distance
from scoreflow_jax.metrics.kernel import kernel_distance


def compressed(images: np.ndarray, quality: int) -> np.ndarray:
    """What Pillow makes of images through JPEG, chroma at half the resolution as by default."""

    def through(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    return np.stack([through(image) for image in images])


def distances(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """KID, and the Frechet distance where there are images enough for a covariance."""
    kid, moments = kernel_distance(first, second), (covariance_of(first), covariance_of(second))
    found: dict[str, Any] = {"kid": kid.mean}
    if None not in moments:
        found["frechet_distance"] = frechet_distance(*moments)  # type: ignore[arg-type]
    return found


def main() -> None:
    """Measures what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="an npz with an array of 8-bit RGB images")
    parser.add_argument("--count", type=int, default=10_000, help="of both halves together")
    parser.add_argument("--qualities", type=int, nargs="+", default=[95, 75, 50])
    args = parser.parse_args()
    with np.load(args.images) as file:
        images = next(a for a in (file[name] for name in file.files) if a.ndim == 4 and a.dtype == np.uint8)
    images = images[np.random.default_rng(0).permutation(len(images))[: args.count]]
    half = len(images) // 2
    extractor: Extractor = inception_extractor()
    first, plain = extractor(images[:half]), extractor(images[half:])
    _tell("none", half, first, plain, plain)
    for quality in args.qualities:
        changed = extractor(compressed(images[half:], quality))
        _tell(quality, half, first, changed, plain)


def _tell(quality: Any, half: int, first: np.ndarray, changed: np.ndarray, plain: np.ndarray) -> None:
    """To the other half, and between the means of the same pictures, less what chance makes of that."""
    apart = (changed - plain).astype(np.float64)
    means = float(np.sum(apart.mean(axis=0) ** 2) - np.sum(apart.var(axis=0, ddof=1)) / len(apart))
    print(json.dumps({"quality": quality, "images": half, **distances(first, changed), "means": means}), flush=True)


if __name__ == "__main__":
    main()
