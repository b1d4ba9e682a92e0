"""Fields of `config.data`. What they configure: scoreflow_jax/data."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from scoreflow_jax.settings.fields import FieldError, Section, field

Framing = Literal["crop", "fit", "right_half"]
"""How pictures of other proportions are brought to the training shape; `data/pictures.py` does it."""

POINT_SOURCES = ("table", "toy")
"""Sources of points, where the others have images."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings(Section):
    """The data at t = 1, by default CIFAR-10 through tensorflow-datasets."""

    source: Literal["arrays", "digits", "tfds", "image_folder", "merged", "table", "toy"] = field(
        "tfds", "kind of data; a pack of --mode=pack can stand in path in place of any"
    )
    name: str = field("cifar10", "the data set's own name, for sources that have several")
    path: str | None = field(
        None,
        "where they are: the folder of pictures, the file of arrays or of a table, a pack, or the folder of all data sets of "
        "tensorflow-datasets (None: $TFDS_DATA_DIR, else ~/tensorflow_datasets)",
    )
    train_split: str = field("train", "what the data set calls the split that is trained on")
    test_split: str = field("test", "what it calls the split that is measured on")
    shape: tuple[int, ...] = field(
        (32, 32, 3), "height, width, channels; of a table (columns,), or (): as many as it has", least=1
    )
    num_classes: int | None = field(10, "0: data without classes; None: as many as the data have", least=0)
    levels: int = field(256, "grey levels of a pixel; 0 for points, which are real numbers", least=0)
    flip: bool = field(True, "mirror training images at random")
    framing: Framing = field(
        "crop",
        "how images of another shape are fitted: by their largest centred part; whole, on white; by that part of the right half",
    )
    white_level: int | None = field(
        None, "the value of white in 16-bit grey pictures; None: 65535. With 12 bits it is 4095", least=1, most=65535
    )
    test_share: float = field(
        0.1,
        "share held out: files of a folder without folders train and test, by their names; rows of a table, by their numbers",
        least=0,
        below=1,
    )
    strict: bool = field(False, "an error instead of a warning for files, and rows of a table, that cannot be used")
    label: str | None = field(None, "the feature, or the column of a table, that holds the class; None: label")
    classes: tuple[Any, ...] = field((), "use only these classes, numbered anew: (3, 5)")
    sampling: Literal["natural", "balanced"] = field(
        "natural", "balanced: each class equally often, however many images it has"
    )
    columns: tuple[Any, ...] = field((), "columns of a table to read, by their names; empty: all but the label")
    parts: dict[str, Any] = field({}, "for source merged: class names, each with fields of this section")
    pairs: str | None = field(None, "a folder of pairs of reflow to train on; --mode=reflow sets it")
    base: dict[str, Any] = field({}, "fields of this section that describe other data at t = 0, in place of noise")
    dequantize: bool = field(False, "train on (k + u) / levels, u uniform, without which there is no honest likelihood")
    units: dict[str, Any] = dataclasses.field(default_factory=dict)
    """In no config: with a run in hand, its table's columns, shift and scale (commands/points.py)."""

    def __post_init__(self) -> None:
        """Refuses what would fail as soon as the data are opened, which may be before all else of a config is looked at."""
        super().__post_init__()
        wrong = next((name for name, part in self.parts.items() if not isinstance(part, Mapping)), None)
        if wrong is not None:
            raise FieldError(f"parts.{wrong} is {self.parts[wrong]!r}, expected a section of fields")
        if not isinstance(self.classes, tuple) or any(type(c) is not int for c in self.classes):
            raise FieldError(f"classes is {self.classes}, expected whole numbers, such as (3, 5)")

    @property
    def is_points(self) -> bool:
        """Whether the examples are points of real numbers, not images."""
        return not self.levels

    def split_name(self, split: str) -> str:
        """What the data set calls the split that training ("train") or evaluation ("test") uses."""
        return {"train": self.train_split, "test": self.test_split}[split]
