"""Tables in Markdown, and figures as a person reads them."""

from collections.abc import Iterable, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells, which are text already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: Any, style: str = "") -> str:
    """A figure in a format such as ".3f"; what says why there is none as it is, and nothing for None."""
    if isinstance(value, float) and style:
        return f"{value:{style}}"
    return "" if value is None else str(value)


def plus_minus(value: float, error: float | None) -> str:
    """A value and its error, where it has one."""
    return f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")


def figure(figures: dict[str, Any], field: str, style: str) -> str:
    """Formats a figure, followed by its own spread where it has one.

    Args:
        figures: by field; the spread is `<field>_std`.
        field: whose figure.
        style: a format such as ".3f".
    """
    own = figures.get(f"{field}_std")
    return shown(figures.get(field, ""), style) + (f" ± {own:{style}}" if isinstance(own, float) else "")


def of_seeds(part: dict[str, Any], field: str, style: str) -> str:
    """Formats mean and spread over several seeds; of one seed the figure, with the spread that it has itself.

    Args:
        part: the figures of a part, with "by_seed", and with "over_seeds" where there are several.
        field: whose figure.
        style: a format such as ".3f".
    """
    if field in part.get("over_seeds", {}):
        spread = part["over_seeds"][field]
        return f"{spread['mean']:{style}} ± {spread['std']:{style}}"
    return figure(next(iter(part["by_seed"].values())), field, style)


def mean(values: list[Any]) -> str:
    """The mean of numbers; why there is none where one is missing."""
    if not values or not all(isinstance(v, float) for v in values):
        return "too few images" if values else ""
    return f"{sum(values) / len(values):.4g}"


def label_note(part: dict[str, Any]) -> str:
    """How the classes of what was generated are shared; reports of before do not say."""
    return f"; classes {part['labels']}" if part.get("labels") else ""
