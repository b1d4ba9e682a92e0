"""Pictures of points, where images make grids: standardized points drawn in the table's own units."""

import dataclasses
import pathlib

import numpy as np
from jaxtyping import Float, Int

from scoreflow_jax import files, plots
from scoreflow_jax.data import DataSource, Units
from scoreflow_jax.host_typing import HostPoints

_MOST = plots.MOST
_MOST_TRACKS = 40

Labels = Int[np.ndarray, " points"]


@dataclasses.dataclass(frozen=True)
class PointPlots:
    """Draws points.

    Attributes:
        units: of the table.
        names: of the classes.
        behind: training points for comparison, in the table's own units; None: none are at hand.
    """

    units: Units
    names: tuple[str, ...]
    behind: HostPoints | None = None

    @classmethod
    def over(cls, source: DataSource, units: Units, names: tuple[str, ...]) -> "PointPlots":
        """Makes plots with the points of a source behind, or some of them.

        Args:
            source: of the training points.
            units: of the table.
            names: of the classes.
        """
        chosen = np.unique(np.linspace(0, len(source) - 1, min(len(source), _MOST)).astype(int))
        return cls(units, names, units.own(source.read(chosen)["image"]))

    def samples(self, path: pathlib.Path, points: HostPoints, labels: Labels | None, title: str = "generated") -> None:
        """Draws points in the colours of their classes.

        Args:
            path: of the PNG.
            points: standardized; the first ones are drawn.
            labels: the class of each; None: there are none.
            title: over the plot.
        """
        cloud = plots.Cloud(
            title, self.units.own(points[:_MOST]), None if labels is None else labels[:_MOST], self.behind
        )
        with files.whole_file(path) as temporary:
            plots.save_clouds(temporary, [cloud], self.units.columns, self.names)

    def translations(
        self,
        path: pathlib.Path,
        sources: HostPoints,
        labels: Labels,
        targets: Labels,
        translated: dict[str, HostPoints],
    ) -> None:
        """Draws points in the colours of their classes, and for each method arrows to what became of them, in their targets'.

        Args:
            path: of the PNG.
            sources: the points before, standardized.
            labels: the class of each source.
            targets: the class that each was translated to.
            translated: the points after, standardized, by the name of the method.
        """
        own = self.units.own
        first = plots.Cloud("source", own(sources), labels, self.behind)
        arrows = [
            plots.Cloud(name, own(sources), targets, self.behind, own(points)) for name, points in translated.items()
        ]
        with files.whole_file(path) as temporary:
            plots.save_clouds(temporary, [first, *arrows], self.units.columns, self.names)

    def tracks(
        self, path: pathlib.Path, tracks: Float[np.ndarray, "points steps dimension"], labels: Labels | None, title: str
    ) -> None:
        """Draws the ways of the first points.

        Args:
            path: of the PNG.
            tracks: the states on the way, standardized.
            labels: the class of each point; None: there are none.
            title: over the plot.
        """
        own = self.units.own(tracks[:_MOST_TRACKS])
        cloud = plots.Cloud(title, own[:, 0], None if labels is None else labels[:_MOST_TRACKS], self.behind)
        with files.whole_file(path) as temporary:
            plots.save_tracks(temporary, own, cloud, self.units.columns, self.names)
