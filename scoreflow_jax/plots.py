"""Curves and clouds of points as PNG, and the font of all pictures. The only module that imports matplotlib.

Without matplotlib or Pillow there are no pictures: one line says so, and their files are left out.
"""

import functools
import importlib.util
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from scoreflow_jax.host_typing import HostPoints


def missing() -> list[str]:
    """Packages that pictures take and that are not installed."""
    packages = {"Pillow": "PIL", "matplotlib": "matplotlib"}
    return [name for name, module in packages.items() if importlib.util.find_spec(module) is None]


@functools.cache
def can_save() -> bool:
    """Whether pictures can be written. Where they cannot, the first question prints why."""
    if not missing():
        return True
    print(f"no pictures: {' and '.join(missing())} not installed. What they would show is kept as npz", file=sys.stderr)
    return False


def none_at(path: pathlib.Path) -> bool:
    """Whether the picture of this path has to be left out; then there is no file."""
    if can_save():
        return False
    path.unlink(missing_ok=True)
    return True


def font_file() -> pathlib.Path:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Arabic and more."""
    import matplotlib

    return pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


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
    """Draws curves into one picture.

    Args:
        path: of the PNG.
        curves: in the order of the legend.
        axes: what stands around them.
    """
    if none_at(path):
        return
    figure, canvas = _canvas(7.0)
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
    _print(canvas, path)


_BEHIND = "0.8"  # the grey of points for comparison
_BINS = 60
_PANEL = 4.6  # inches
_MOST_NAMED = 10  # classes in a legend


class Cloud(NamedTuple):
    """Points in a panel: the first two coordinates against each other, or a histogram of one.

    Attributes:
        title: over it.
        points: what to draw.
        labels: a class for each, which gives its colour; None: one colour.
        behind: points for comparison, drawn faintly; None: none.
        ends: where an arrow leads from each point; None: no arrows.
    """

    title: str
    points: HostPoints
    labels: Int[np.ndarray, " points"] | None = None
    behind: HostPoints | None = None
    ends: HostPoints | None = None


MOST = 3000
"""Points of a cloud that are drawn: more only cover each other."""


def save_clouds(
    path: pathlib.Path,
    clouds: Sequence[Cloud],
    columns: Sequence[str],
    names: Sequence[str] = (),
    *,
    in_line: int | None = None,
) -> None:
    """Draws clouds side by side, on the same axes.

    Args:
        path: of the PNG.
        clouds: a panel each.
        columns: names of the coordinates.
        names: of the classes.
        in_line: panels side by side at the most; the rest go on below. None: all.
    """
    if none_at(path):
        return
    across = min(len(clouds), in_line or len(clouds))
    down = -(-len(clouds) // across)
    figure, canvas = _canvas(_PANEL * across, _PANEL * down)
    flat = len(columns) > 1
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=flat).ravel()
    for panel in panels[len(clouds) :]:
        panel.remove()
    for panel, cloud in zip(panels, clouds, strict=False):
        (_scatter if flat else _histogram)(panel, cloud, names)
        panel.set(title=cloud.title, xlabel=columns[0], ylabel=columns[1] if flat else "density")
        _legend(panel)
    _print(canvas, path)


def cloud_pixels(
    cloud: Cloud, columns: Sequence[str], limits: tuple[float, float, float, float]
) -> UInt8[np.ndarray, "height width 3"]:
    """One panel as a picture; of an animation, whose axes stand still.

    Args:
        cloud: to draw.
        columns: names of the coordinates.
        limits: of the axes: left, right, bottom, top; with one coordinate left and right alone.
    """
    figure, canvas = _canvas(_PANEL)
    panel, flat = figure.add_subplot(), len(columns) > 1
    (_scatter if flat else _histogram)(panel, cloud, ())
    panel.set(title=cloud.title, xlabel=columns[0], ylabel=columns[1] if flat else "density", xlim=limits[:2])
    if flat:
        panel.set_ylim(limits[2:])
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def save_tracks(
    path: pathlib.Path,
    tracks: Float[np.ndarray, "points steps dimension"],
    cloud: Cloud,
    columns: Sequence[str],
    names: Sequence[str] = (),
) -> None:
    """Draws the ways of points: a line each, a circle where it begins and a dot where it ends; one coordinate over the steps.

    Args:
        path: of the PNG.
        tracks: the ways.
        cloud: title, classes of the tracks and points behind; its own points are not drawn.
        columns: names of the coordinates.
        names: of the classes.
    """
    if none_at(path):
        return
    figure, canvas = _canvas(6.0)
    panel, flat = figure.add_subplot(), len(columns) > 1
    if cloud.behind is not None and flat:
        panel.scatter(cloud.behind[:, 0], cloud.behind[:, 1], s=3, color=_BEHIND, linewidths=0, label="training points")
    for i, track in enumerate(tracks):
        across, up = (track[:, 0], track[:, 1]) if flat else (np.arange(len(track)), track[:, 0])
        label = 0 if cloud.labels is None else int(cloud.labels[i])
        named = cloud.labels is not None and label not in cloud.labels[:i] and label < _MOST_NAMED
        panel.plot(across, up, color=f"C{label}", linewidth=1, alpha=0.8, label=names[label] if named else None)
        panel.plot(across[:1], up[:1], "o", markersize=4, color=f"C{label}", fillstyle="none")
        panel.plot(across[-1:], up[-1:], "o", markersize=4, color=f"C{label}")
    panel.set(title=cloud.title, xlabel=columns[0] if flat else "step", ylabel=columns[1] if flat else columns[0])
    _legend(panel)
    _print(canvas, path)


def _scatter(panel: Any, cloud: Cloud, names: Sequence[str]) -> None:
    if cloud.behind is not None:
        panel.scatter(cloud.behind[:, 0], cloud.behind[:, 1], s=3, color=_BEHIND, linewidths=0, label="training points")
    for name, colour, chosen in _groups(cloud, names):
        x, y = cloud.points[chosen, 0], cloud.points[chosen, 1]
        if cloud.ends is None:
            panel.scatter(x, y, s=5, color=colour, linewidths=0, alpha=0.7, label=name)
        else:
            along = cloud.ends[chosen, :2] - cloud.points[chosen, :2]
            how = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.003, "alpha": 0.6}
            panel.quiver(x, y, along[:, 0], along[:, 1], color=colour, label=name, **how)
            panel.update_datalim(cloud.ends[chosen, :2])  # arrows count by where they begin only
    panel.autoscale_view()


def _histogram(panel: Any, cloud: Cloud, names: Sequence[str]) -> None:
    """Draws a histogram of where the points are, or where their arrows lead."""
    drawn = cloud.points if cloud.ends is None else cloud.ends
    known = [drawn] if cloud.behind is None else [drawn, cloud.behind]
    bins = np.histogram_bin_edges(np.concatenate(known)[:, 0], bins=_BINS)
    if cloud.behind is not None:
        panel.hist(cloud.behind[:, 0], bins, density=True, color=_BEHIND, label="training points")
    for name, colour, chosen in _groups(cloud, names):
        panel.hist(drawn[chosen, 0], bins, density=True, histtype="step", color=colour, label=name)


def _groups(cloud: Cloud, names: Sequence[str]) -> list[tuple[str | None, str, Any]]:
    """Name for the legend, colour and points of each class, or of all."""
    if cloud.labels is None:
        return [(None, "C0", slice(None))]
    return [
        (names[c] if c < _MOST_NAMED else None, f"C{c}", cloud.labels == c) for c in np.unique(cloud.labels).tolist()
    ]


def _legend(panel: Any) -> None:
    if panel.get_legend_handles_labels()[1]:
        panel.legend(fontsize="small")


def _canvas(width: float, height: float = _PANEL) -> tuple[Any, Any]:
    """A figure and what draws it; the object interface leaves the user's own matplotlib state and backend alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, FigureCanvasAgg(figure)


def _print(canvas: Any, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_png(str(path))
