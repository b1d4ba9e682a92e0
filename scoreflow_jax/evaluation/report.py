"""An evaluation as a Markdown page: a section for each part that was run, and how all of it was measured."""

import re
from typing import Any

from scoreflow_jax import plots
from scoreflow_jax.evaluation.markdown import shown, table
from scoreflow_jax.evaluation.parts import PARTS

_MATTERS = (
    "trained_config_hash",
    "parameters_sha256",
    "parameters",
    "ema_decay",
    "step",
    "sampler.name",
    "sampler.num_steps",
    "sampler.noise",
    "sampler.schedule",
    "sampler.variance",
    "sampler.corrector_steps",
    "sampler.snr",
    "sampler.margin",
    "sampler.denoise",
    "solver.method",
    "solver.steps",
    "solver.grid",
    "solver.between",
    "solver.preset",
    "solver.corrections",
    "solver.rtol",
    "solver.atol",
    "solver.step_control",
    "solver.dtype",
    "solver.matmul_precision",
    "batch_size",
    "rounding",
    "seeds",
    "data.name",
    "data.test_split",
    "data.test_images",
    "data.test_sha256",
    "extractor.extractor",
    "extractor.weights_sha256",
    "extractor.resize",
    "extractor.computation",
)
_OF_THE_MACHINE = ("device", "host", "versions.jax", "versions.scoreflow_jax")

MATTERS = (*_MATTERS, *(f"{name}.{field}" for name, part in PARTS.items() for field in part.matters), *_OF_THE_MACHINE)
"""Fields that two evaluations should share for their figures to compare, but for what is being compared."""

_PICTURE = re.compile(r"\n+!\[.*?\]\(.*?\)")


def page(report: dict[str, Any]) -> str:
    """report.md, without links where no picture can be drawn."""
    title = f"# {report['name']}, step {report['step']}"
    appendices = [PARTS[name].appendix(report[name]) for name in PARTS if name in report]
    text = "\n\n".join(
        [
            title,
            *_sections(report),
            f"## How it was measured\n\n{table(['', ''], manifest(report))}",
            *filter(None, appendices),
            "All figures: report.json.",
        ]
    )
    return text if plots.can_save() else without_pictures(text)


def without_pictures(text: str) -> str:
    """A page without its links to pictures."""
    return _PICTURE.sub("", text)


def manifest(report: dict[str, Any]) -> list[list[str]]:
    """How a report's figures were measured, as rows of a table."""
    return [[name, shown(value)] for name, value in matters(report).items()]


def summary(report: dict[str, Any]) -> str:
    """The parts' sections alone, for the terminal."""
    return "\n\n".join(_sections(report))


def matters(report: dict[str, Any]) -> dict[str, Any]:
    """The fields of `MATTERS` that a report has."""
    found = {}
    for name in MATTERS:
        value: Any = report
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found[name] = value
    return found


def _sections(report: dict[str, Any]) -> list[str]:
    sections = [part.page(report[name], report) for name, part in PARTS.items() if name in report]
    if report.get("data", {}).get("examples") != "points":
        return sections
    return [text.replace("image", "point").replace("Image", "Point") for text in sections]  # said in nearly every line
