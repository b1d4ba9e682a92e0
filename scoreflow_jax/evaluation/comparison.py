"""Several evaluations in one table, and before the figures what differs in how they were measured."""

import json
from typing import Any

from scoreflow_jax import sums
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.extractors import distance_name
from scoreflow_jax.evaluation.markdown import of_seeds, table
from scoreflow_jax.evaluation.report import MATTERS, matters
from scoreflow_jax.user_paths import user_path

_COMPARED = (
    ("frechet_distance", ".3f"),
    ("kid", ".5f"),
    ("precision", ".3f"),
    ("recall", ".3f"),
    ("inception_score", ".2f"),
    ("recognized", ".1%"),
    ("nfe", ".0f"),
    ("seconds_per_image", ".3g"),
)


def read_report(path: str) -> dict[str, Any]:
    """A report.json of --mode=eval.

    Raises:
        UserError: no such file, or another kind of report.
    """
    file = user_path(path)
    file = file / "report.json" if file.is_dir() else file
    try:
        report: Any = sums.read_json(file)
    except OSError:
        raise UserError(
            f"no report {file}; expected the report.json of an evaluation, such as runs/digits/eval/2500"
        ) from None
    except sums.Damaged as error:
        raise UserError(f"{error}: evaluate again") from error
    generation = report.get("generation") if isinstance(report, dict) else None
    if not isinstance(generation, dict) or not generation.get("by_seed") or "extractor" not in report:
        raise UserError(
            f"{file} is not the report of an evaluation with generation; expected one that --mode=eval wrote"
        )
    return report


def compare(reports: dict[str, dict[str, Any]]) -> str:
    """Reports side by side, and before the figures what differs in how they were measured.

    Args:
        reports: by a name for each column.
    """
    names = list(reports)
    manifests = {n: matters(r) for n, r in reports.items()}
    fields = [f for f in MATTERS if any(f in m for m in manifests.values())]
    different = [f for f in fields if len({json.dumps(m.get(f)) for m in manifests.values()}) > 1]
    if different:
        rows = [[f, *(_short(manifests[n].get(f)) for n in names)] for f in different]
        text = "These were not measured alike. What differs:\n\n" + table(["", *names], rows) + "\n\n"
    else:
        text = "Measured alike in every field that matters.\n\n"
    kinds = {distance_name(r["extractor"]) for r in reports.values()}
    distance = kinds.pop() if len(kinds) == 1 else "Frechet distance (of different features: not comparable)"
    rows = []
    for field, style in _COMPARED:
        cells = [of_seeds(reports[n]["generation"], field, style) for n in names]
        if any(cells):
            rows.append([distance if field == "frechet_distance" else field.replace("_", " "), *cells])
    note = (
        "± is over seeds where there are several; else of KID over its subsets, of the Inception Score over its splits."
    )
    return f"{text}{table(['', *names], rows)}\n\n{note}"


def _short(value: Any) -> str:
    """Hashes are cut: their beginning tells them apart."""
    text = "not stated" if value is None else str(value)
    return text[:12] if len(text) == 64 else text
