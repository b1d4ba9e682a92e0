"""Curves as PNG. The only module that imports matplotlib."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple


class Curve(NamedTuple):
    """Points of one kind.

    Attributes:
        name: for the legend.
        x, y: coordinates.
        low, high: edges of a band around y, or None.
        marked: draw the points, not only the line.
        group: curves of one group have one colour; by default each its own.
        dashed: the line.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    marked: bool = True
    group: str | None = None
    dashed: bool = False


class Axes(NamedTuple):
    """What stands around a plot; `level` names a horizontal line and its height."""

    title: str
    x: str
    y: str
    log_x: bool = False
    log_y: bool = False
    level: tuple[str, float] | None = None


def save_curves(path: pathlib.Path, curves: Sequence[Curve], axes: Axes) -> None:
    """Draws curves into one picture."""
    # The object interface leaves the user's own matplotlib state and backend alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    colours: dict[str, str] = {}
    for curve in curves:
        colour = colours.setdefault(curve.group or curve.name, f"C{len(colours)}")
        style = {"marker": "o" if curve.marked else "", "linestyle": "--" if curve.dashed else "-", "color": colour}
        (line,) = plot.plot(curve.x, curve.y, markersize=4, label=curve.name, **style)
        if curve.low is not None and curve.high is not None:
            plot.fill_between(curve.x, curve.low, curve.high, alpha=0.2, color=line.get_color(), linewidth=0)
    if axes.level is not None:
        plot.axhline(axes.level[1], color="0.4", linestyle="--", linewidth=1, label=axes.level[0])
    plot.set(title=axes.title, xlabel=axes.x, ylabel=axes.y)
    plot.set_xscale("log" if axes.log_x else "linear")
    plot.set_yscale("log" if axes.log_y else "linear")
    plot.grid(visible=True, which="both", alpha=0.2)
    plot.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_png(str(path))
