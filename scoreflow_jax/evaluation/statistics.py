"""What generated images are compared with: features of a data set, or mean and covariance from a file."""

import dataclasses
import hashlib
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float, Int32

from scoreflow_jax import sums
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.evaluation.extractors import Extractor
from scoreflow_jax.evaluation.features import DataFeatures
from scoreflow_jax.metrics.frechet import Gaussian, gaussian_of
from scoreflow_jax.user_paths import user_path

_ALIKE = 0.1  # difference of the shares of JPEG in two sets, up to which they are compared without a word


@dataclasses.dataclass(frozen=True)
class Statistics:
    """A set of images as an extractor sees it.

    Attributes:
        gaussian: mean and covariance; None where there are too few images.
        facts: what a report says of it.
        features, labels: of every image; None where only mean and covariance are known.
    """

    gaussian: Gaussian | None
    facts: dict[str, Any]
    features: Float[np.ndarray, "batch features"] | None = None
    labels: Int32[np.ndarray, " batch"] | None = None

    def of_class(self, label: int) -> Float[np.ndarray, "batch features"]:
        """Features of one class.

        Raises:
            UserError: it has no images, or only mean and covariance of the whole are known.
        """
        if self.features is None or self.labels is None:
            raise UserError(
                f"{self.facts['data']} has only mean and covariance of all classes: unset config.eval.reference"
            )
        chosen = self.features[self.labels == label]
        if not len(chosen):
            raise UserError(f"{self.facts['data']} has no images of class {label}: nothing to compare with")
        return chosen


def statistics_of(
    found: DataFeatures, data: str, split: str, extractor: Extractor, jpeg: float | None = None
) -> Statistics:
    """Statistics of a data set's features.

    Args:
        found: the features.
        data, split: their names, for reports.
        extractor: that made them.
        jpeg: the share of pictures that were kept as JPEG; None: it is not known.
    """
    facts = {
        "data": data,
        "split": split,
        "images": len(found.features),
        "data_sha256": found.sha256,
        **({} if jpeg is None else {"jpeg": jpeg}),
        **extractor.facts,
    }
    return Statistics(covariance_of(found.features), facts, found.features, found.labels)


def covariance_of(features: Float[np.ndarray, "batch features"]) -> Gaussian | None:
    """Mean and covariance; None where there are no more images than features, and the covariance has no full rank."""
    return gaussian_of(features) if len(features) > features.shape[1] else None


def too_few(count: int, size: int) -> str:
    """Why there is no Frechet distance."""
    return f"not measured: {count} images are too few for a covariance of {size} features (give at least {size + 1}); see KID"


def save_npz(path: pathlib.Path, statistics: Statistics) -> None:
    """Writes the usual npz: mu, sigma, and besides them the facts as text.

    Raises:
        UserError: there is no covariance.
    """
    if statistics.gaussian is None:
        raise UserError(f"{statistics.facts['data']} has too few images for a covariance: nothing to write")
    facts = np.asarray([f"{name}: {value}" for name, value in statistics.facts.items()])
    mean, covariance = statistics.gaussian
    np.savez(path, allow_pickle=False, mu=mean, sigma=covariance, facts=facts)


def load_npz(path: str, extractor: Extractor) -> Statistics:
    """Reads an npz of mu and sigma, such as pytorch-fid's and the TensorFlow code's.

    Files that we wrote say what extractor made them; of others only the number of features can be checked, and a report says so.

    Raises:
        UserError: no such file, a damaged one, or statistics of another extractor.
    """
    try:
        file = sums.read_arrays(user_path(path))
        mean, covariance = (np.asarray(file[name], np.float64) for name in ("mu", "sigma"))
        said = [str(line) for line in file["facts"]] if "facts" in file else None
    except FileNotFoundError:
        raise UserError(
            f"config.eval.reference is {path}, which is not a file; expected an npz of mu and sigma"
        ) from None
    except Exception as error:  # a damaged zip raises almost anything, another kind of file the rest
        raise UserError(f"{path} is not an npz of mu and sigma, or damaged ({first_line(error)})") from error
    size = extractor.size
    if mean.shape != (size,) or covariance.shape != (size, size):
        raise UserError(
            f"{path} has mu {mean.shape} and sigma {covariance.shape}: it is of another extractor, {extractor.name} has {size}"
        )
    if not (np.all(np.isfinite(mean)) and np.all(np.isfinite(covariance))):
        raise UserError(f"{path} has numbers that are not finite: it is damaged")
    if not np.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-8 * np.abs(covariance).max()):
        raise UserError(f"{path} has a sigma that is not symmetric, so not a covariance: it is damaged")
    gaussian, digest = Gaussian(mean, covariance), hashlib.sha256(mean.tobytes() + covariance.tobytes()).hexdigest()
    facts = {"data": path, "split": "file", "statistics_sha256": digest}
    if said is None:
        return Statistics(gaussian, {**facts, "extractor_of_file": "not stated by the file"})
    for name, value in extractor.facts.items():
        if f"{name}: {value}" not in said:
            theirs = next((line for line in said if line.startswith(f"{name}: ")), f"{name}: unknown")
            raise UserError(f"{path} is of another extractor: its {theirs}, expected {value}")
    stated = [float(line.partition(": ")[2]) for line in said if line.startswith("jpeg: ")]
    return Statistics(
        gaussian, {**facts, **({"jpeg": stated[0]} if stated else {}), **extractor.facts, "said_by_file": said}
    )


def jpeg_warning(shares: dict[str, float | None]) -> str | None:
    """A sentence where pictures of one set are JPEG and of another not; None where all that are known are alike.

    Args:
        shares: of JPEG in each set, by its name; None: it is not known.
    """
    known = {name: share for name, share in shares.items() if share is not None}
    if not known or max(known.values()) - min(known.values()) <= _ALIKE:
        return None
    listed = ", ".join(f"{share:.0%} of {name}" for name, share in known.items())
    return (
        f"JPEG are {listed}: compression alone makes a distance (docs/results.md), so it is not the model's error alone"
    )
