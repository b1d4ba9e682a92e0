"""--mode=eval: measures a model, each part as the config switches it on."""

import math
import pathlib
import sys
import time
from typing import Any

import numpy as np

from scoreflow_jax import files, sums
from scoreflow_jax.commands import reports
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.base import Part
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.parts import PARTS
from scoreflow_jax.evaluation.report import page, summary
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.settings.solve import OF_ONE_DRIFT


def run_command(experiment: Experiment, workdir: pathlib.Path, out: str | None = None) -> None:
    """Writes eval/<step>/{report.json, report.md, pictures}, after each part what there is.

    Args:
        experiment: built from the config at hand.
        workdir: the run's folder.
        out: the folder to write to; None: eval/<step>/ in the workdir.
    """
    chosen = chosen_parts(experiment)
    model = workdirs.open_model(experiment, workdir, batch_size=experiment.eval.batch_size)
    folder = reports.out_folder("eval", workdir, f"eval/{model.step}", out)
    data = Data(model.experiment)
    for split in ("train", "test"):
        data.split(split)
    report = {
        **reports.report_head(model, "eval", seed=None, by_sampler=True),
        "seeds": list(experiment.eval.seeds),
        "batch_size": experiment.eval.batch_size,
        **_opened(data, [*chosen.values()]),
    }
    for name, part in chosen.items():
        start = time.perf_counter()
        report[name] = _plain(part.measure(model, data, folder))
        sums.write_json(folder / "report.json", report)
        with files.whole_file(folder / "report.md") as path:
            path.write_text(page(report) + "\n")
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    print(summary(report))
    print(f"see {folder / 'report.md'}")


def chosen_parts(experiment: Experiment, *, quiet: bool = False) -> dict[str, Part]:
    """The parts that the config asks for and the model allows, by name; unless `quiet` it says which it does not allow.

    Raises:
        UserError: there are none, or one cannot be measured with this config.
    """
    wanted = {name: part for name in PARTS if (part := getattr(experiment.eval, name)).wanted}
    if not wanted:
        raise UserError(
            f"every part of the evaluation is off: switch one on, --config.eval.PART.on=True with PART of {', '.join(PARTS)}"
        )
    left_out = {name: why for name, part in wanted.items() if (why := _impossible(part, experiment))}
    for name, why in left_out.items() if not quiet else ():
        print(f"{name} is left out: {why}", file=sys.stderr)
    chosen = {name: part for name, part in wanted.items() if name not in left_out}
    if not chosen:
        raise UserError(
            "nothing that is asked for can be measured of this model: switch another part of config.eval on"
        )
    for part in chosen.values():
        part.check(experiment)
    return chosen


def _impossible(part: Part, experiment: Experiment) -> str:
    """Why a part cannot be measured of such a model; empty where it can."""
    if experiment.data.base and part.of_densities:
        return "the points at t = 0 are data (config.data.base), so that the model has no density"
    if (method := experiment.solver.method) in OF_ONE_DRIFT and part.of_densities:
        return f"densities integrate more than the drift, which config.solver.method {method!r} is of; 'dopri5' integrates it"
    return ""


def _opened(data: Data, chosen: list[Part]) -> dict[str, Any]:
    """Opens what the parts will need, since what is missing should be said before hours of work; facts for the report."""
    facts: dict[str, Any] = {"data": data.facts}
    if any(part.compares_features for part in chosen):
        facts["extractor"] = data.extractor.facts
        if data.jpeg_warning is not None:  # computes the reference
            print(f"warning: {data.jpeg_warning}", file=sys.stderr)
        _ = data.judge  # a classifier that is wanted is trained now, since scikit-learn may be missing
    for part in chosen:
        part.open(data)
    return facts


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, and None for what is not a number, for JSON."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
