"""Translation between classes, both methods side by side: is the result of the target class, is it still the source's, and is
the way back open?"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from scoreflow_jax import files
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.base import Data, Experiment, Figures, Model, Part
from scoreflow_jax.evaluation.markdown import mean, shown, table
from scoreflow_jax.host_typing import HostState
from scoreflow_jax.settings.fields import FieldError, field


class Job(NamedTuple):
    """Images with the classes that they are of and shall become."""

    images: HostState
    source: Int[np.ndarray, " batch"]
    target: Int[np.ndarray, " batch"]
    number: Int[np.ndarray, " batch"]  # of the image: the same one is translated to several classes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translation(Part):
    """Every ordered pair of classes, by both methods."""

    on: bool = field(False, "measure this part", was="translation")
    pairs: tuple[Any, ...] = field((), "((source, target), ...); empty: all", was="translation_pairs")
    images: int = field(50, "test images of each source class, at the most", least=1, was="translation_images")
    lpips_backbone: str | None = field(
        None,
        "torchvision's alexnet-owt-7be5be79.pth; with lpips_heads also LPIPS to the source",
        was="lpips_backbone",
    )
    lpips_heads: str | None = field(None, "alex.pth of the lpips package, version 0.1", was="lpips_heads")

    smoke = {"images": 1}
    compares_features = True

    def __post_init__(self) -> None:
        """Refuses pairs that are none, and half of LPIPS."""
        super().__post_init__()
        for pair in self.pairs:
            two = isinstance(pair, tuple) and len(pair) == 2 and pair[0] != pair[1]
            if not two or any(type(c) is not int or c < 0 for c in pair):
                raise FieldError(f"pairs has {pair}, expected pairs of different classes, such as ((0, 1), (1, 0))")
        if (self.lpips_backbone is None) != (self.lpips_heads is None):
            raise FieldError("lpips_backbone and lpips_heads: LPIPS needs both")

    @property
    def classes(self) -> tuple[int, ...]:
        """Those of the pairs."""
        return tuple(c for pair in self.pairs for c in pair)

    def check(self, experiment: Experiment) -> None:
        """Refuses an unconditional model."""
        if not experiment.num_classes:
            raise UserError("an unconditional model cannot translate: set config.eval.translation.on=False")

    def open(self, data: Data) -> None:
        """Refuses pairs of classes without images, and opens the weights of LPIPS."""
        for split, position in (("test", 0), ("test", 1), (data.settings.split, 1)):
            there = {*data.examples(split)["label"].tolist()}
            for pair in self._all_pairs(data.experiment):
                if pair[position] not in there:
                    name = data.class_name(pair[position])
                    raise UserError(
                        f"the {split} split has no images of class {pair[position]} ({name}): name other pairs in "
                        "config.eval.translation.pairs"
                    )
        _ = data.perceptual_distance

    def measure(self, model: Model, data: Data, out: pathlib.Path) -> Figures:
        """Figures of both methods, over all pairs, by target class and by pair; draws translation_<method>.png."""
        from scoreflow_jax.sampling import methods_by

        job, methods = self.job(data), {}
        for method in methods_by(model.experiment.solver):
            methods[method], translated = measure_method(model, data, job, method)
            _draw(out / f"translation_{method}.png", data, job, translated)
        return {"pairs": len(self._all_pairs(data.experiment)), "images": len(job.images), "methods": methods}

    def _all_pairs(self, experiment: Experiment) -> list[tuple[int, int]]:
        """The pairs that the config names, or all."""
        classes = range(experiment.num_classes)
        return [*self.pairs] or [(a, b) for a in classes for b in classes if a != b]

    def job(self, data: Data) -> Job:
        """The first images of each pair's source class in the test split."""
        labels = data.examples("test")["label"]
        chosen, targets = [], []
        for source, target in self._all_pairs(data.experiment):
            members = np.flatnonzero(labels == source)[: self.images]
            chosen.append(members)
            targets.append(np.full(len(members), target, np.int32))
        index = np.concatenate(chosen)
        images, classes = data.images("test", index)
        return Job(images, classes, np.concatenate(targets), index)

    @staticmethod
    def page(figures: Figures, report: Figures) -> str:
        """See `Part.page`."""
        del report
        methods = figures["methods"]
        rows = []
        for name, words, style in (
            ("recognized_as_target", "recognized as the target class", ".1%"),
            ("distance_to_own_source", "distance to its own source", ".3f"),
            ("distance_to_other_sources", "distance to other sources of that class", ".3f"),
            ("lpips_to_own_source", "LPIPS to its own source", ".3f"),
            ("cycle_error_swapped", "there and back with labels swapped, mean absolute error", ".2e"),
            ("cycle_error_reversed", "there and back in reversed time, mean absolute error", ".2e"),
            ("nfe", "NFE", ".0f"),
        ):
            if any(m.get(name) is not None for m in methods.values()):  # one image a pair has no others of its class
                rows.append([words, *(shown(m.get(name, ""), style) for m in methods.values()), ""])
        targets = next(iter(methods.values()))["by_target"].values()
        for name, words in (("frechet_distance", "Frechet distance"), ("kid", "KID")):
            real = mean([v["real"]["kid"] for v in targets]) if name == "kid" else ""
            cells = [mean([v[name] for v in m["by_target"].values()]) for m in methods.values()]
            rows.append([f"{words} to the target class, mean over classes", *cells, real])
        head = [f"{figures['images']} translations, {figures['pairs']} pairs of classes", *methods, "real, held out"]
        pictures = "\n".join(f"![{m}](translation_{m}.png)" for m in methods)
        return f"## Translation\n\n{table(head, rows)}\n\n{pictures}"

    @staticmethod
    def appendix(figures: Figures) -> str:
        """A row a pair of classes, the methods side by side."""
        methods = figures["methods"]
        fields = (
            ("recognized_as_target", ".0%"),
            ("kid", ".3g"),
            ("distance_to_own_source", ".2f"),
            ("cycle_error_swapped", ".1e"),
        )
        pairs = list(next(iter(methods.values()))["by_pair"])
        found = [m["by_pair"][pair] for m in methods.values() for pair in pairs]
        used = [(f, s) for f, s in fields if any(isinstance(each.get(f), int | float) for each in found)]
        words = {
            "recognized_as_target": "recognized",
            "kid": "KID",
            "distance_to_own_source": "to source",
            "cycle_error_swapped": "cycle",
        }
        head = ["pair", *(f"{words[f]}, {name}" for f, _ in used for name in methods)]
        rows = [[p, *(shown(m["by_pair"][p].get(f, ""), s) for f, s in used for m in methods.values())] for p in pairs]
        return f"## Translation by pair\n\n{table(head, rows)}"


def measure_method(model: Model, data: Data, job: Job, method: str) -> tuple[Figures, HostState]:
    """Translates and measures the results, over all pairs, by target class and by pair.

    Args:
        model: to translate by, with its solver.
        data: has the classifier, the features and the real images of each class.
        job: what is translated to what.
        method: a name of `sampling.TRANSLATIONS`.

    Returns:
        The figures, and the translated images (batch, ...).
    """
    from scoreflow_jax.programs import Translate
    from scoreflow_jax.sampling import TRANSLATIONS

    solved = model.solve(Translate(method), job.images, job.source, job.target)
    # The way back: labels swapped, the paper's; and for `difference` also the same ODE from t = 1 to 0, its exact inverse.
    returns = {"swapped": model.solve(Translate(method), solved.y, job.target, job.source)}
    if method == "difference":
        returns["reversed"] = model.solve(Translate(method, inverse=True), solved.y, job.source, job.target)
    cycle = {f"cycle_error_{name}": _per_image(back.y - job.images) for name, back in returns.items()}
    # What is judged are the pixels that a user gets.
    seen = data.experiment.scaling.shown(solved.y)
    features = data.extractor(data.experiment.scaling.to_pixels(solved.y))
    recognized = None if data.judge is None else data.judge.predict(seen)
    own = {**_perceptual(seen, job, data, model.batch_size), **cycle}
    own["distance_to_own_source"] = np.linalg.norm((seen - job.images).reshape(len(seen), -1), axis=1)
    if recognized is not None:
        own["recognized_as_target"] = (recognized == job.target).astype(np.float64)
    figures = {
        **translation_quality(seen, job, recognized),
        **{name: float(values.mean()) for name, values in own.items()},
        "nfe": solved.stats.summary(TRANSLATIONS[method].network_calls)["nfe_mean"],
        "cost": solved.stats.summary(TRANSLATIONS[method].network_calls),
        "by_target": {str(t): _to_class(features[job.target == t], data, int(t)) for t in np.unique(job.target)},
        "by_pair": {
            f"{s} to {t}": _of_pair(features, own, data, (job.source == s) & (job.target == t), t)
            for s, t in sorted({*zip(job.source.tolist(), job.target.tolist(), strict=True)})
        },
    }
    return figures, solved.y


def translation_quality(
    translated: HostState, job: Job, recognized: Int[np.ndarray, " batch"] | None
) -> dict[str, Any]:
    """Measures the share recognized as the target, and Euclidean distances to an image's own source and to others of its class.

    Args:
        translated: the results, (batch, ...).
        job: what was translated to what.
        recognized: the class that a classifier finds in each result; None: there is no classifier.
    """
    from scoreflow_jax.metrics.diversity import distances_to_sources

    own, others = distances_to_sources(translated, job.images, job.source, job.number)
    share = {} if recognized is None else {"recognized_as_target": float(np.mean(recognized == job.target))}
    return {**share, "distance_to_own_source": own, "distance_to_other_sources": others}


def _perceptual(shown: HostState, job: Job, data: Data, size: int) -> dict[str, Float[np.ndarray, " batch"]]:
    """LPIPS of each image to its own source, where the weights are at hand."""
    import jax.numpy as jnp

    if data.perceptual_distance is None:
        return {}
    parts = [
        np.asarray(data.perceptual_distance(jnp.asarray(shown[i : i + size]), jnp.asarray(job.images[i : i + size])))
        for i in range(0, len(shown), size)
    ]
    return {"lpips_to_own_source": np.concatenate(parts)}


def _to_class(features: Float[np.ndarray, "batch features"], data: Data, target: int) -> dict[str, Any]:
    """Distances of all translations to a class from its real images, and of real held-out ones.

    Of the target class, since distances between the sets of all classes would praise a translation that does nothing.
    """
    from scoreflow_jax.evaluation.statistics import covariance_of, too_few
    from scoreflow_jax.metrics.frechet import frechet_distance

    real = data.statistics(data.settings.split).of_class(target)
    held_out = data.statistics("test").of_class(target)
    own, theirs = covariance_of(features), covariance_of(real)
    if own is None or theirs is None:
        distance: float | str = too_few(min(len(features), len(real)), data.extractor.size)
    else:
        distance = frechet_distance(own, theirs)
    return {
        "images": len(features),
        "frechet_distance": distance,
        "kid": _kid(features, real),
        "real": {"images": len(held_out), "kid": _kid(held_out, real)},
    }


def _kid(features: Float[np.ndarray, "_ features"], real: Float[np.ndarray, "_ features"]) -> float | str:
    from scoreflow_jax.metrics.kernel import kernel_distance

    if min(len(features), len(real)) < 2:
        return "not measured: fewer than 2 images"
    return kernel_distance(features, real).mean


def _of_pair(
    features: Float[np.ndarray, "batch features"],
    own: dict[str, Float[np.ndarray, " batch"]],
    data: Data,
    chosen: Bool[np.ndarray, " batch"],
    target: int,
) -> dict[str, Any]:
    """Figures of one pair; NFE is of batches, in which pairs are mixed."""
    found = _to_class(features[chosen], data, target)
    del found["real"]
    return {**found, **{name: float(values[chosen].mean()) for name, values in own.items()}}


def _per_image(x: HostState) -> Float[np.ndarray, " batch"]:
    """Mean absolute value."""
    return np.abs(x).mean(axis=tuple(range(1, x.ndim)), dtype=np.float64)


def _draw(path: pathlib.Path, data: Data, job: Job, translated: HostState) -> None:
    """One row a source class: its first image, then that image as every other class; of points an arrow each."""
    from scoreflow_jax import figures

    if data.experiment.spec.is_points:
        data.point_plots.translations(path, job.images, job.source, job.target, {"translated": translated})
        return
    targets = np.unique(job.target).tolist()
    rows, captions = [], []
    for s in np.unique(job.source).tolist():
        first = job.images[job.source == s][0]
        row = [first]
        for t in targets:
            found = np.flatnonzero((job.source == s) & (job.target == t))
            row.append(translated[found[0]] if len(found) else first if s == t else np.full_like(first, 1.0))
        rows.append(np.stack(row))
        captions.append(data.class_name(s))
    heads = ["source", *(data.class_name(t) for t in targets)]
    with files.whole_file(path) as temporary:
        figures.save_rows(temporary, rows, captions=captions, heads=heads)
