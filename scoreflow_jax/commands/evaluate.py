"""--mode=eval: measures a model, each part as the config switches it on."""

import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from scoreflow_jax import files, sums
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.audit import measure_audit
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.density_classifier import measure_density_classifier
from scoreflow_jax.evaluation.density_cost import measure_density_cost
from scoreflow_jax.evaluation.generation import measure_generation
from scoreflow_jax.evaluation.likelihoods import measure_likelihood
from scoreflow_jax.evaluation.outliers import measure_outliers
from scoreflow_jax.evaluation.report import page, summary
from scoreflow_jax.evaluation.residual import measure_residual
from scoreflow_jax.evaluation.reversibility import measure_reversibility
from scoreflow_jax.evaluation.score_difference import measure_score_difference
from scoreflow_jax.evaluation.straightness import measure_straightness
from scoreflow_jax.evaluation.sweep import measure_sweep
from scoreflow_jax.evaluation.translation import check_translation, measure_translation
from scoreflow_jax.evaluation.truncation import measure_truncation
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.model import Model

Part = Callable[[Model, Data, pathlib.Path], dict[str, Any]]

PARTS: dict[str, Part] = {
    "generation": measure_generation,
    "reversibility": lambda model, data, _: measure_reversibility(model, data),
    "translation": measure_translation,
    "likelihood": lambda model, data, _: measure_likelihood(model, data),
    "sweep": measure_sweep,
    "truncation": measure_truncation,
    "audit": lambda model, data, _: measure_audit(model, data),
    "straightness": measure_straightness,
    "residual": measure_residual,
    "density_cost": measure_density_cost,
    "density_classifier": lambda model, data, _: measure_density_classifier(model, data),
    "outliers": measure_outliers,
    "score_difference": measure_score_difference,
}
"""What can be measured, by the field of `config.eval` that switches it on."""


FEATURES = {"generation", "translation", "sweep", "audit", "straightness"}
"""Parts that compare features, and so need the extractor and its weights."""


_OF_DENSITIES = {"likelihood", "density_cost", "density_classifier", "outliers", "score_difference"}
"""Parts that need a Gaussian at t = 0."""


def run_command(experiment: Experiment, workdir: pathlib.Path, out: str | None = None) -> None:
    """Writes eval/<step>/{report.json, report.md, pictures}, after each part what there is."""
    wanted = [name for name in PARTS if getattr(experiment.eval, name) not in (False, "none")]
    left_out = {name: why for name in wanted if (why := _impossible(name, experiment))}
    for name, why in left_out.items():
        print(f"{name} is left out: {why}", file=sys.stderr)
    chosen = [name for name in wanted if name not in left_out]
    if left_out and not chosen:
        raise UserError(
            "nothing that is asked for can be measured of this model: switch another part of config.eval on"
        )
    if not chosen:
        raise UserError(f"every part of the evaluation is off: switch one on, config.eval.{', '.join(PARTS)}")
    model = workdirs.open_model(experiment, workdir, batch_size=experiment.eval.batch_size)
    folder = workdirs.out_folder("eval", workdir / "eval" / str(model.step), out)
    data = Data(model.experiment)
    for split in ("train", "test"):
        data.source(split)
    report = {
        **workdirs.report_head(model, "eval", seed=None, by_sampler=True),
        "seeds": list(experiment.eval.seeds),
        "batch_size": experiment.eval.batch_size,
        **_opened(data, chosen),
    }
    for name in chosen:
        start = time.perf_counter()
        report[name] = _plain(PARTS[name](model, data, folder))
        sums.write_json(folder / "report.json", report)
        with files.whole_file(folder / "report.md") as path:
            path.write_text(page(report) + "\n")
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    print(summary(report))
    print(f"see {folder / 'report.md'}")


def _impossible(name: str, experiment: Experiment) -> str:
    """Why a part cannot be measured of such a model; empty where it can."""
    if experiment.data.base and name in _OF_DENSITIES:
        return "the points at t = 0 are data (config.data.base), so that the model has no density"
    return ""


def _opened(data: Data, chosen: list[str]) -> dict[str, Any]:
    """Opens what the parts will need, since what is missing should be said before hours of work; facts for the report."""
    facts: dict[str, Any] = {"data": data.facts}
    if FEATURES & {*chosen}:
        facts["extractor"] = data.extractor.facts
        if data.jpeg_warning is not None:  # computes the reference
            print(f"warning: {data.jpeg_warning}", file=sys.stderr)
    if "translation" in chosen:
        check_translation(data)
        _ = data.perceptual_distance
    return facts


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, and None for what is not a number, for JSON."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
