"""Particles of a flow: are they like the data, and are they copies of them? Pictures of them on their way."""

import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from scoreflow_jax import figures, files, plots
from scoreflow_jax.data import Units
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.metrics.diversity import nearest, within_class_std
from scoreflow_jax.typing import HostState

_SHOWN = 64  # images of a panel
_COLUMNS = 8
_MOST = 2000  # points drawn, and points whose neighbours are sought
_PANELS = 8
_PANELS_IN_LINE = 4
_MILLISECONDS = 120  # of a frame

Reference = Float[np.ndarray, "reference ..."]


def measure_particles(data: Data, particles: HostState, training: Reference, target: int | None) -> dict[str, Any]:
    """Figures on particles beside the same on held-out examples of where they go.

    `nearest_distance` is the mean Euclidean distance to the nearest training example; `nearer_than_any_held_out` the share of
    particles that are nearer to one than every held-out example is: as good as copies.

    Args:
        data: of the experiment.
        particles: in the end.
        training: the examples that they went to.
        target: their class; None: all classes.
    """
    images, labels = data.images("test")
    held_out = images if target is None else images[labels == target]
    sets = {"moved": particles[:_MOST], "held_out": held_out[:_MOST]}
    distances = {name: nearest(x, training)[0] for name, x in sets.items()}
    report: dict[str, Any] = {name: {"nearest_distance": float(found.mean())} for name, found in distances.items()}
    report["moved"]["nearer_than_any_held_out"] = float(np.mean(distances["moved"] < distances["held_out"].min()))
    if data.judge is not None:
        for name, x in sets.items():
            report[name] |= _judged(data, x, target)
    return report


def _judged(data: Data, x: HostState, target: int | None) -> dict[str, Any]:
    """What the classifier says: of a class the share recognized as it, of all the share on which the nearest example agrees."""
    found = data.judge.predict(x)
    counts = np.bincount(found, minlength=data.experiment.spec.num_classes)
    figures: dict[str, Any] = {"recognized_classes": counts.tolist()}
    if counts.max() > 1:
        figures["within_class_std"] = within_class_std(x, found)
    if target is not None:
        return {"recognized": float(np.mean(found == target)), **figures}
    images, labels = data.images("train")
    return {"agreed": float(np.mean(found == labels[nearest(x, images)[1]])), **figures}


def draw_panels(path: pathlib.Path, data: Data, frames: list[HostState], captions: list[str]) -> None:
    """Some of the frames, from the first to the last, side by side.

    Args:
        path: of the PNG.
        data: of the experiment.
        frames: of the particles.
        captions: one for each.
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(_PANELS, len(frames))).round().astype(int))
    with files.whole_file(path) as temporary:
        if not data.experiment.spec.is_points:
            panels = [_panel(frames[i], captions[i]) for i in chosen]
            lines = [panels[i : i + _PANELS_IN_LINE] for i in range(0, len(panels), _PANELS_IN_LINE)]
            figures.save_panels(temporary, lines)
        else:
            units, clouds = data.units, [_cloud(data, frames[i], captions[i]) for i in chosen]
            plots.save_clouds(temporary, clouds, units.columns, in_line=_PANELS_IN_LINE)


def draw_animation(path: pathlib.Path, data: Data, frames: list[HostState], captions: list[str]) -> None:
    """Draws all frames, one after the other, as an animation.

    Args:
        path: of the GIF.
        data: of the experiment.
        frames: of the particles.
        captions: one for each.
    """
    if plots.none_at(path):
        return
    if not data.experiment.spec.is_points:
        pictures = [figures.panel_pixels(_panel(x, caption)) for x, caption in zip(frames, captions, strict=True)]
    else:
        limits = _limits(data.units, frames)
        clouds = [_cloud(data, x, caption) for x, caption in zip(frames, captions, strict=True)]
        pictures: list[UInt8[np.ndarray, "height width 3"]] = [
            plots.cloud_pixels(cloud, data.units.columns, limits) for cloud in clouds
        ]
    with files.whole_file(path) as temporary:
        figures.save_animation(temporary, pictures, _MILLISECONDS)


def _panel(images: HostState, caption: str) -> figures.Panel:
    return figures.Panel(figures.in_rows(images[:_SHOWN], _COLUMNS), caption)


def _cloud(data: Data, points: HostState, caption: str) -> plots.Cloud:
    return plots.Cloud(caption, data.units.own(points[:_MOST]), None, data.point_plots.behind)


def _limits(units: Units, frames: list[HostState]) -> tuple[float, float, float, float]:
    """Limits of the axes, which stand still: what the particles ever take up."""
    own = units.own(np.concatenate([x[:_MOST] for x in frames]))
    low, high = own.min(axis=0), own.max(axis=0)
    up = 1 if own.shape[1] > 1 else 0
    return float(low[0]), float(high[0]), float(low[up]), float(high[up])
