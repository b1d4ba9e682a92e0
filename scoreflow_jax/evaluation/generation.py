"""How good and how varied generated images are, and what they cost."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from scoreflow_jax import files
from scoreflow_jax.evaluation.base import Column, Data, Figures, Model, Part
from scoreflow_jax.evaluation.markdown import figure, of_seeds, table
from scoreflow_jax.settings.fields import field

_SHOWN = 100  # images in grid.png
_COLUMNS = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation(Part):
    """FID, KID, precision, recall, Inception Score and NFE of generated images."""

    on: bool = field(True, "measure this part", was="generation")
    images: int = field(50_000, "images to generate with each seed", least=2, was="num_images")
    first_images: int = field(
        0,
        "measure the distance of the first so many too, to compare with evaluations of fewer images; 0: no",
        least=0,
        was="first_images",
    )
    keep_images: bool = field(True, "keep the 8-bit images too, in eval/<step>/samples", was="keep_images")

    smoke = {"images": 40}
    compares_features = True
    matters = (
        "images", "guidance", "labels", "reference.data", "reference.split", "reference.images", "reference.data_sha256",
        "reference.statistics_sha256", "reference.extractor_of_file", "reference.jpeg", "kid", "precision_recall",
        "inception_score", "classifier",
    )  # fmt: skip

    columns = (
        Column("frechet_distance", "distance", ".3f"),
        Column("frechet_distance_first", "distance, first {first}", ".3f"),
        Column("kid", "KID", ".4f"),
        Column("recognized", "recognized", ".1%"),
        Column("nfe", "NFE", ".0f"),
        Column("seconds", "s per 1,000", ".1f"),
    )

    def measure(self, model: Model, data: Data, out: pathlib.Path) -> Figures:
        """Figures of generated images, one set for each seed; draws grid.png.

        Returns:
            Figures by seed, their mean and standard deviation; those of held-out real images, of at most as many; and where
            held-out images are fewer those of as many generated ones, since most figures depend on the number.
        """
        from scoreflow_jax.evaluation.copies import find_copies
        from scoreflow_jax.evaluation.samples import generate, of_features
        from scoreflow_jax.metrics.precision_recall import NEIGHBOURS

        count, held_out = model.at_most(self.images), len(data.split("test"))
        by_seed, of_as_many, of_real = {}, {}, {}
        for seed in data.settings.seeds:
            generated = generate(model, data, out, seed)
            by_seed[str(seed)] = _figures(generated, data, self.first_images)
            if seed == data.seed and _by_features(data):
                own, of_real = find_copies(out / "nearest.png", generated, data)
                by_seed[str(seed)] |= own
            if seed == data.seed:
                _draw(out / "grid.png", generated, data)
                if held_out < count:
                    of_as_many = of_features(generated.features[:held_out], data)
            del generated  # 400 MB for 50,000 images
        report: dict[str, Any] = {
            "images": count,
            "guidance": model.experiment.sample.guidance,
            "labels": data.label_rule,
            "reference": data.reference.facts,
            "kid": "unbiased, cubic kernel; mean over 100 random subsets of 1,000 images, or of small sets all images once",
            "precision_recall": f"k = {NEIGHBOURS}, on the extractor's features",
            "inception_score": "10 splits, without the output layer's bias",
            "classifier": None if data.judge is None else data.judge.description,
            "by_seed": by_seed,
            "real": _real(data, min(count, held_out)) | of_real,
        }
        if data.jpeg_warning is not None:
            report["warning"] = data.jpeg_warning
        if of_as_many:
            report["of_as_many"] = of_as_many
        if len(by_seed) > 1:
            report["over_seeds"] = over_seeds(list(by_seed.values()))
        return report

    @staticmethod
    def page(figures: Figures, report: Figures) -> str:
        """See `Part.page`."""
        from scoreflow_jax.evaluation.extractors import distance_name

        g = figures
        first, real, fewer = next(iter(g["by_seed"].values())), g["real"], g.get("of_as_many")
        rows = []
        for name, words, style in (
            ("frechet_distance", f"{distance_name(report['extractor'])} to {_reference(g['reference'])}", ".3f"),
            ("kid", "KID", ".5f"),
            ("precision", "precision", ".3f"),
            ("recall", "recall", ".3f"),
            ("inception_score", "Inception Score", ".2f"),
            ("recognized", "recognized by a classifier", ".1%"),
            ("within_class_std", "standard deviation within a class", ".3f"),
            ("nearest_training_distance", "distance to the nearest training image", ".3f"),
            ("nearest_training_feature_distance", "distance by features to the nearest training image", ".2f"),
            ("nearer_than_held_out", "nearer to one than 99 % of held-out images", ".1%"),
            ("nfe", "NFE", ".0f"),
            ("seconds_per_image", "seconds per image", ".3g"),
        ):
            if name not in first and name not in real:
                continue
            middle = [figure(fewer, name, style)] if fewer else []
            rows.append([words, of_seeds(g, name, style), *middle, figure(real, name, style)])
        head = [f"{g['images']} images", "generated", f"real, held out ({real['images']})"]
        if fewer:
            head.insert(2, f"generated, the first {real['images']}")
        warning = f"\n\n**Warning**: {g['warning']}." if "warning" in g else ""
        copies = "\n\n![nearest training images](nearest.png)" if "nearer_than_held_out" in first else ""
        text = f"## Generation\n\n{table(head, rows)}\n\n{_notes(g, first, real)}{warning}"
        return f"{text}\n\n![first samples](grid.png){copies}"

    @staticmethod
    def for_study(figures: Figures) -> Figures:
        """The first seed's; see `Part.for_study`."""
        own = next(iter(figures["by_seed"].values()))
        names = ("frechet_distance", "frechet_distance_first", "recognized", "nfe")
        found: Figures = {n: float(own[n]) for n in names if isinstance(own.get(n), int | float)}
        if "frechet_distance" not in found and isinstance(own.get("kid"), int | float):
            found["kid"] = float(own["kid"])  # of too few images for a covariance
        return found | {"images": figures["images"], "seconds": 1000.0 * own["seconds_per_image"]}


def _draw(path: pathlib.Path, generated: Any, data: Data) -> None:
    """The first images as a grid, class by class; of points, those that are at hand."""
    from scoreflow_jax import figures

    if data.experiment.spec.is_points:
        labels = None if generated.labels is None else generated.labels[: len(generated.first)]
        data.point_plots.samples(path, generated.first, labels)
        return
    first = data.experiment.scaling.from_eight_bits(generated.first[:_SHOWN])
    if generated.labels is not None:
        first = first[np.argsort(generated.labels[: len(first)], kind="stable")]
    with files.whole_file(path) as temporary:
        figures.save_grid(temporary, first, columns=_COLUMNS)


def over_seeds(figures: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and sample standard deviation of every figure that is a number in all of them; never the minimum."""
    names = [n for n, v in figures[0].items() if all(isinstance(f.get(n), float) for f in figures)]
    columns = {n: np.asarray([f[n] for f in figures]) for n in names}
    return {n: {"mean": float(c.mean()), "std": float(c.std(ddof=1))} for n, c in columns.items()}


def _figures(generated: Any, data: Data, few: int) -> Figures:
    """All that is measured of one set of images, of the first few the distance too."""
    from scoreflow_jax.evaluation.samples import distances, of_features, on_pixels, recognized_by_features

    cost = generated.stats.summary(data.experiment.guided_calls(data.experiment.sample.guidance))
    figures = of_features(generated.features, data)
    if 0 < few < len(generated.features):
        figures["frechet_distance_first"] = distances(generated.features[:few], data.reference, data.extractor)[
            "frechet_distance"
        ]
    elif few:
        figures["frechet_distance_first"] = figures["frechet_distance"]
    figures |= {"nfe": cost["nfe_mean"], "seconds_per_image": cost["seconds"] / cost["images"], "cost": cost}
    if data.small:
        images = data.experiment.scaling.from_eight_bits(generated.first)
        labels = None if generated.labels is None else generated.labels[: len(images)]
        figures |= on_pixels(images, labels, data)
    else:
        figures |= recognized_by_features(generated.features, generated.labels, data)
    return figures


def _by_features(data: Data) -> bool:
    """Whether copies are looked for by features: where pixels say little, and the training images' are at hand."""
    from scoreflow_jax.evaluation.copies import known_training_features

    return not data.small and known_training_features(data)


def _real(data: Data, count: int) -> dict[str, Any]:
    """The figures of `count` test images: about what a perfect model would reach with as many."""
    from scoreflow_jax.evaluation.samples import ON_PIXELS, of_features, on_pixels, recognized_by_features

    held_out, chosen = data.statistics("test"), data.some(count)
    assert held_out.features is not None
    figures: dict[str, Any] = {"images": count, "split": held_out.facts["split"]}
    if not data.small:
        assert held_out.labels is not None
        figures |= recognized_by_features(held_out.features[chosen], held_out.labels[chosen], data)
    if data.settings.split == "test" and data.settings.reference is None:
        return figures | {"note": "not measured: the reference is these very images"}
    figures |= of_features(held_out.features[chosen], data)
    if data.small:
        images, labels = data.images("test", chosen[:ON_PIXELS])
        figures |= on_pixels(images, labels if data.experiment.conditional else None, data)
    return figures


def _notes(g: dict[str, Any], first: dict[str, Any], real: dict[str, Any]) -> str:
    """What has to be known to read the table."""
    notes = [f"classes of generated images: {g['labels']}"] if g.get("labels") else []
    if len(g["by_seed"]) > 1:
        notes.append(f"± is the standard deviation over {len(g['by_seed'])} seeds")
    elif any(isinstance(first.get(f"{field}_std"), float) for field in ("kid", "inception_score")):
        notes.append(
            "± is the standard deviation over KID's subsets and over the Inception Score's splits, not over seeds"
        )
    if "of_as_many" in g:
        notes.append(
            "distances, recall and Inception Score depend on the number of images: compare the last two columns"
        )
    if "images_on_pixels" in first:
        notes.append(
            f"recognition, deviation and nearest distance are of the first {first['images_on_pixels']} generated images and "
            f"{real.get('images_on_pixels', 0)} real ones"
        )
    if "note" in real:
        notes.append(real["note"])
    text = "; ".join(notes)
    return text[:1].upper() + text[1:] + "." if text else ""


def _reference(facts: dict[str, Any]) -> str:
    return f"{facts['data']} {facts['split']}" + (f" ({facts['images']} images)" if "images" in facts else "")
