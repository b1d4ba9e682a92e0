"""What a part of an evaluation is: its fields in `config.eval`, what it measures, and its section of the page.

A part is one file with one class, and a line in the table of `parts.py`. Its fields are read before JAX is imported, by --help
and by configs, so its file imports JAX, and what imports JAX, where it measures.
"""

import abc
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from scoreflow_jax.settings.fields import Section, field

if TYPE_CHECKING:
    from scoreflow_jax.evaluation.data import Data
    from scoreflow_jax.experiment import Experiment
    from scoreflow_jax.model import Model
else:  # each imports JAX; whatever is given has their methods
    Data = Experiment = Model = Any

Figures = dict[str, Any]
"""What a part found, as JSON will hold it."""


class Column(NamedTuple):
    """A figure in the table of a study.

    Attributes:
        field: its name in the figures of a run.
        words: over the column.
        style: how it is printed.
    """

    field: str
    words: str
    style: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part(Section, abc.ABC):
    """A part of an evaluation, with its fields."""

    on: bool = field(False, "measure this part")

    smoke: ClassVar[Mapping[str, Any]] = {}
    """Fields of the smoke variants of configs, in which every part has to run in seconds."""

    compares_features: ClassVar[bool] = False
    """Whether it compares features of images, so that the extractor and its weights are needed before work begins."""

    of_densities: ClassVar[bool] = False
    """Whether it needs a density, which a model between two data sets does not have."""

    matters: ClassVar[tuple[str, ...]] = ()
    """Its figures that say how it was measured, dotted: two evaluations whose figures compare should share them."""

    columns: ClassVar[tuple[Column, ...]] = ()
    """Columns that it has in the table of a study, of the figures that `for_study` returns."""

    @property
    def wanted(self) -> bool:
        """Whether the config asks for it."""
        return self.on

    @property
    def classes(self) -> tuple[int, ...]:
        """Classes that its fields name, which the data must have; default: none."""
        return ()

    def check(self, experiment: Experiment) -> None:
        """Refuses a config that the part cannot be measured with; default: none.

        Raises:
            UserError: naming the field to change.
        """

    def open(self, data: Data) -> None:
        """Opens what it needs besides the data, so that what is missing is said before hours of work; default: nothing.

        Raises:
            UserError: it is not there.
        """

    @abc.abstractmethod
    def measure(self, model: Model, data: Data, out: pathlib.Path) -> Figures:
        """Measures a model.

        Args:
            model: whose parameters and solver are measured.
            data: images, features and statistics of its data.
            out: the folder of the report, for pictures.

        Returns:
            Figures as JSON holds them.
        """

    @staticmethod
    @abc.abstractmethod
    def page(figures: Figures, report: Figures) -> str:
        """The part's section of report.md, in Markdown, headline included.

        Args:
            figures: what `measure` returned, as read back from JSON; of an older version maybe.
            report: the whole report.
        """

    @staticmethod
    def appendix(figures: Figures) -> str:
        """What is too long to stand among the sections; default: nothing."""
        del figures
        return ""

    @staticmethod
    def for_study(figures: Figures) -> Figures:
        """Figures by the names of `columns`, those that were measured, and what a study needs besides; default: none."""
        del figures
        return {}
