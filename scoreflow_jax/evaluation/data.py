"""What every part of an evaluation needs, opened or computed when first asked for."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, Int32

from scoreflow_jax.data import DataSource, Examples, Units, read_all
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.base import Experiment
from scoreflow_jax.evaluation.dealing import deal
from scoreflow_jax.evaluation.extractors import Extractor, inception_extractor, pixel_extractor
from scoreflow_jax.evaluation.features import data_features
from scoreflow_jax.evaluation.point_plots import PointPlots
from scoreflow_jax.evaluation.statistics import Statistics, jpeg_warning, load_npz, statistics_of
from scoreflow_jax.files import cache_dir
from scoreflow_jax.models.lpips import SMALLEST, lpips
from scoreflow_jax.perceptual import lpips_weights
from scoreflow_jax.user_paths import user_path

_DRAW_SEED = 0
_CLASSES_SHOWN = 12

LabelledImages = tuple[Float[np.ndarray, "_ ..."], Int[np.ndarray, " _"]]

SMALL = 1024
"""Numbers of an image up to which classifiers, spread and neighbours on pixels make sense."""


class Data:
    """The data of an experiment as an evaluation sees them: images, features and statistics of its splits.

    Attributes:
        experiment: whose data they are.
        settings: `config.eval`.
    """

    def __init__(self, experiment: Experiment) -> None:
        """Reads nothing yet."""
        self.experiment = experiment
        self.settings = experiment.eval
        self._splits: dict[str, DataSource] = {}
        self._examples: dict[str, Examples] = {}
        self._statistics: dict[str, Statistics] = {}

    @property
    def seed(self) -> int:
        """The seed of what is drawn once, where `config.eval.seeds` has several."""
        return self.settings.seeds[0]

    def split(self, name: str) -> DataSource:
        """The images of a split, "train" or "test"."""
        if name not in self._splits:
            self._splits[name] = self.experiment.split(name)
        return self._splits[name]

    def examples(self, split: str) -> Examples:
        """All images of a split as pixels, and their labels."""
        if split not in self._examples:
            self._examples[split] = read_all(self.split(split))
        return self._examples[split]

    def images(self, split: str, chosen: Int[np.ndarray, " _"] | None = None) -> LabelledImages:
        """Images of a split in [-1, 1], and their labels: those with these numbers, or all."""
        examples = self.examples(split)
        which = slice(None) if chosen is None else chosen
        return self.experiment.scaling.to_images(examples["image"][which]), examples["label"][which]

    def some(self, count: int) -> Int[np.ndarray, " _"]:
        """Numbers of `count` test images, or of all: drawn at random, since a source may list one class after the other."""
        total = len(self.split("test"))
        return np.sort(np.random.default_rng(_DRAW_SEED).permutation(total)[:count])

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What a report says of the data."""
        e, test = self.experiment, self.examples("test")
        return {
            "name": e.data.name,
            "examples": "points" if e.spec.is_points else "images",
            "train_split": e.data.train_split,
            "test_split": e.data.test_split,
            "test_images": len(test["label"]),
            "test_sha256": hashlib.sha256(test["image"].tobytes() + test["label"].tobytes()).hexdigest(),
            "subsets": f"of the test split, drawn at random with seed {_DRAW_SEED}",
        }

    def class_name(self, label: int) -> str:
        """What the data set calls a class."""
        return self.split("test").class_names[label]

    @functools.cached_property
    def units(self) -> Units:
        """The units of a table's points."""
        return Units.of(self.split("test").facts)

    @functools.cached_property
    def point_plots(self) -> PointPlots:
        """Pictures of points, over those of the training split."""
        source = self.split("train")
        return PointPlots.over(source, self.units, source.class_names)

    @functools.cached_property
    def extractor(self) -> Extractor:
        """The extractor that `config.eval.extractor` names."""
        if self.settings.extractor == "pixels":
            return pixel_extractor(self.experiment.spec.shape)
        return inception_extractor(self.settings.inception_weights, self.settings.resize)

    def statistics(self, split: str) -> Statistics:
        """Features of a split, from the cache where they are there."""
        if split not in self._statistics:
            e = self.experiment
            name = {"train": e.data.train_split, "test": e.data.test_split}[split]
            folder = user_path(self.settings.cache) if self.settings.cache else cache_dir() / "features"
            found = data_features(self.split(split), self.extractor, folder, f"{e.data.name} {name}")
            jpeg = self.split(split).facts.get("jpeg")
            self._statistics[split] = statistics_of(found, e.data.name, name, self.extractor, jpeg)
        return self._statistics[split]

    @functools.cached_property
    def reference(self) -> Statistics:
        """What generated images are compared with."""
        if self.settings.reference is not None:
            return load_npz(self.settings.reference, self.extractor)
        return self.statistics(self.settings.split)

    @property
    def jpeg_warning(self) -> str | None:
        """A warning where the reference's pictures are JPEG, or the held-out ones alone: generated ones never are."""
        shares = {
            "the reference": self.reference.facts.get("jpeg"),
            "held-out images": self.split("test").facts.get("jpeg"),
        }
        if shares["the reference"] is None:
            return None
        return jpeg_warning({"generated images": 0.0, **shares})

    @functools.cached_property
    def class_shares(self) -> tuple[int, ...]:
        """How many examples of each class what generated ones are compared with has, or 1 each; () without classes.

        An npz of mean and covariance does not know its classes: those of `config.eval.split` stand for them.
        """
        classes = self.experiment.num_classes
        if not classes or self.settings.labels == "even":
            return (1,) * classes
        labels = self.split(self.settings.split).labels()
        return tuple(np.bincount(labels, minlength=classes).tolist())

    def labels(self, count: int) -> Int32[np.ndarray, " count"] | None:
        """Classes of generated examples 0 .. count - 1, as `config.eval.labels` says; None for an unconditional model."""
        return deal(self.class_shares, count) if self.experiment.num_classes else None

    @property
    def label_rule(self) -> str | None:
        """What a report says of the classes of generated examples; None for an unconditional model."""
        if not self.experiment.num_classes:
            return None
        if self.settings.labels == "even":
            return "evenly over the classes"
        e, split = self.experiment, self.settings.split
        name = {"train": e.data.train_split, "test": e.data.test_split}[split]
        shown = "/".join(map(str, self.class_shares[:_CLASSES_SHOWN]))
        more = "/..." if len(self.class_shares) > _CLASSES_SHOWN else ""
        return f"in the shares of {e.data.name} {name}, {shown}{more}"

    @functools.cached_property
    def judge(self) -> Any:
        """A classifier trained on the real training images, of their features, where the config wants one; else None."""
        if not self.settings.classifier or not self.experiment.conditional:
            return None
        from scoreflow_jax.metrics.recognition import FeatureRecognizer, PixelRecognizer

        if self.settings.extractor == "pixels":
            return PixelRecognizer(*self.images("train"))
        real, to_pixels = self.statistics("train"), self.experiment.scaling.to_pixels
        assert real.features is not None
        assert real.labels is not None
        return FeatureRecognizer(lambda images: self.extractor(to_pixels(images)), real.features, real.labels)

    @functools.cached_property
    def perceptual_distance(self) -> Callable[[Any, Any], Any] | None:
        """LPIPS of two sets of images, where its weights are at hand; else None.

        Raises:
            UserError: a file does not hold these weights, or images are too small.
        """
        translation = self.settings.translation
        backbone, heads = translation.lpips_backbone, translation.lpips_heads
        if backbone is None or heads is None:
            return None
        if min(self.experiment.spec.shape[:2]) < SMALLEST:
            raise UserError(f"LPIPS of images {self.experiment.spec.shape}: expected at least {SMALLEST}x{SMALLEST}")
        return functools.partial(jax.jit(lpips), lpips_weights(backbone, heads))

    @property
    def small(self) -> bool:
        """Whether images are small enough for figures on their pixels."""
        return int(np.prod(self.experiment.spec.shape)) <= SMALL
