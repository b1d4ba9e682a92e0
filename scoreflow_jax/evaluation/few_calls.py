"""What a flow map makes of few network calls, beside its ODE: samples, translations, the way there and back."""

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Int

from scoreflow_jax import files
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.base import Column, Data, Experiment, Figures, Model, Part
from scoreflow_jax.evaluation.markdown import label_note, shown, table
from scoreflow_jax.host_typing import HostState
from scoreflow_jax.settings.fields import field

_SHOWN = 10  # samples, and translations, in the pictures
_ODE = "ODE"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewCalls(Part):
    """Samples, translations and reversal in few jumps of a flow map, beside its ODE by the tolerances of config.solver."""

    images: int = field(1000, "images to generate", least=2)
    calls: tuple[int, ...] = field((1, 2, 4, 8), "numbers of equal jumps, each way", least=1)
    translations: int = field(
        20, "test images of each class, at the most, that are translated to every other; 0: none", least=0
    )
    held_out: int = field(364, "test images to encode and decode", least=1)

    smoke = {"images": 20, "calls": (1, 2), "translations": 1, "held_out": 10}
    compares_features = True
    columns = (
        Column("frechet_distance_1", "distance, 1 call", ".3f"),
        Column("frechet_distance_4", "distance, 4 calls", ".3f"),
        Column("recognized_1", "recognized, 1 call", ".1%"),
        Column("translated_1", "translated, 1 + 1", ".1%"),
        Column("encode_and_decode_2", "encode and decode, 2 + 2", ".4f"),
        Column("encode_and_decode_4", "encode and decode, 4 + 4", ".4f"),
        Column("corrected_2", "corrected, 4 + 2", ".4f"),
        Column("corrected_4", "corrected, 8 + 4", ".4f"),
        Column("latents_deviation_1", "deviation of latents, 1 call", ".3f"),
    )

    def check(self, experiment: Experiment) -> None:
        """Refuses a network that cannot jump."""
        if not experiment.jumps:
            raise UserError(
                "config.eval.few_calls measures jumps, which this network has not learned: set its on to False, or train "
                "configs/flow_map.py"
            )

    def measure(self, model: Model, data: Data, out: pathlib.Path) -> Figures:
        """A row of figures for each number of calls and for the ODE, of the same noise and images; draws few_calls*.png."""
        import jax

        from scoreflow_jax.evaluation.densities import as_trained
        from scoreflow_jax.evaluation.reversibility import there_and_back
        from scoreflow_jax.evaluation.samples import of_samples
        from scoreflow_jax.programs import Generate

        solver = model.experiment.solver.adaptive
        count = model.at_most(self.images)
        noise, labels = np.asarray(model.source_points(jax.random.key(data.seed), count)), data.labels(count)
        images, classes = data.images("test", data.some(self.held_out))
        classes = classes if model.num_classes else None
        drawn = as_trained(model, data, self.held_out)
        made_by = functools.cache(lambda way: model.with_solver(way).solve(Generate(), noise, labels))
        rows: dict[str, Figures] = {}
        panels, translated = {}, {}
        for name, way in {**{str(n): solver.jumps(n) for n in self.calls}, _ODE: solver}.items():
            there, made = model.with_solver(way), made_by(way)
            cost, back = made.stats.summary(), there_and_back(there, images, classes, drawn)
            rows[name] = {
                "nfe": cost["nfe_mean"],
                "seconds_per_image": cost["seconds"] / cost["images"],
                **of_samples(made.y, made_by(solver).y, labels, data),
                "encode_and_decode": back["mean_absolute_error"],
                "latents_mean": back["latents_mean"],
                "latents_deviation": back["latents_deviation"],
            }
            if name != _ODE:
                halved = made_by(solver.jumps(2 * int(name))).y
                rows[name]["off_its_halves"] = float(np.sqrt(np.mean(np.square(halved - made.y, dtype=np.float64))))
                corrected = model.with_solver(dataclasses.replace(way, corrections=1))
                rows[name]["corrected"] = there_and_back(corrected, images, classes)["mean_absolute_error"]
            panels[name] = made.y
            if self._translates(model):
                figures, translated[name] = self._translations(there, data)
                rows[name] |= figures
        pictures = self._draw(out, data, panels, translated, labels)
        facts = {"images": count, "labels": data.label_rule, "held_out": len(images), "tolerance": solver.rtol}
        return {**facts, "rows": rows, "pictures": pictures}

    def _translates(self, model: Model) -> bool:
        return self.translations > 0 and model.num_classes > 1

    def _translations(self, model: Model, data: Data) -> tuple[Figures, Any]:
        """Of test images of each class to every other, encoded and decoded; with the job and its results."""
        from scoreflow_jax.evaluation.translation import Translation, measure_method

        job = Translation(images=self.translations).job(data)
        figures, y = measure_method(model, data, job, "latent")
        kids = [each["kid"] for each in figures["by_target"].values()]
        return {
            "translated": figures.get("recognized_as_target"),
            "translated_kid": float(np.mean(kids)) if all(isinstance(k, float) for k in kids) else kids[0],
            "cycle": figures["cycle_error_swapped"],
            "translations": len(job.images),
        }, (job, y)

    def _draw(
        self,
        out: pathlib.Path,
        data: Data,
        made: dict[str, HostState],
        translated: dict[str, Any],
        labels: Int[np.ndarray, " batch"] | None,
    ) -> list[str]:
        """few_calls.png: the same noise by each number of calls. few_calls_translated.png: the same images likewise."""
        from scoreflow_jax import figures

        if data.experiment.spec.is_points:
            for name, points in made.items():
                words = f"{name} call{'s' * (name != '1')}" if name != _ODE else name
                data.point_plots.samples(out / f"few_calls_{name}.png", points, labels, words)
            return [f"few_calls_{name}.png" for name in made]
        # One of each class, as far as there are any.
        first = np.arange(_SHOWN) if labels is None else np.unique(labels, return_index=True)[1][:_SHOWN]
        captions = [f"{n} call{'s' * (n != '1')}" if n != _ODE else n for n in made]
        with files.whole_file(out / "few_calls.png") as path:
            figures.save_rows(path, [y[first] for y in made.values()], captions=captions)
        if translated:
            job = next(iter(translated.values()))[0]
            chosen = np.unique(np.linspace(0, len(job.images) - 1, _SHOWN).astype(int))
            rows = [job.images[chosen], *(y[chosen] for _, y in translated.values())]
            heads = [f"to {data.class_name(int(t))}" for t in job.target[chosen]]
            words = ["source", *(n if n == _ODE else f"{n} + {n} calls" for n in translated)]
            with files.whole_file(out / "few_calls_translated.png") as path:
                figures.save_rows(path, rows, captions=words, heads=heads)
        return ["few_calls.png", *(["few_calls_translated.png"] if translated else [])]

    @staticmethod
    def page(figures: Figures, report: Figures) -> str:
        """See `Part.page`."""
        from scoreflow_jax.evaluation.extractors import distance_name

        rows = figures["rows"]
        fields = [
            ("nfe", "NFE", ".0f"),
            ("frechet_distance", distance_name(report["extractor"]), ".3f"),
            ("recognized", "recognized", ".1%"),
            ("rms_difference", "off the ODE by", ".3f"),
            ("off_its_halves", "off twice the jumps by", ".3f"),
            ("translated", "translated, recognized", ".1%"),
            ("translated_kid", "KID to the target class", ".4f"),
            ("cycle", "there and back between classes", ".4f"),
            ("encode_and_decode", "encode and decode", ".4f"),
            ("corrected", "encoded in twice as many, corrected", ".4f"),
            ("latents_deviation", "deviation of latents", ".3f"),
            ("seconds_per_image", "s per image", ".2g"),
        ]
        used = [each for each in fields if any(r.get(each[0]) is not None for r in rows.values())]
        head = ["calls each way", *(words for _, words, _ in used)]
        lines = [[name, *(shown(r.get(f), style) for f, _, style in used)] for name, r in rows.items()]
        end = f"The ODE at {figures['tolerance']:g}; {figures['held_out']} held-out images; errors are mean absolute"
        pictures = "\n".join(f"![{name}]({name})" for name in figures["pictures"])
        return f"## In few network calls\n\n{table(head, lines)}\n\n{end}{label_note(figures)}.\n\n{pictures}".rstrip()

    @staticmethod
    def for_study(figures: Figures) -> Figures:
        """See `Part.for_study`."""
        found = {}
        for column in FewCalls.columns:  # a figure and the number of calls that it is of
            name, calls = column.field.rsplit("_", 1)
            value = figures["rows"].get(calls, {}).get(name)
            if isinstance(value, float):
                found[column.field] = value
        return found
