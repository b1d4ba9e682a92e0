"""Fields of `config.eval`: those that all parts share, and a section for each part of `parts.py`."""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from scoreflow_jax.evaluation.parts import PARTS
from scoreflow_jax.settings.fields import FieldError, Section, field, subsection


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedSettings(Section):
    """What all parts of an evaluation share."""

    seeds: tuple[int, ...] = field(
        (1,),
        "each a whole set of images; several: mean and spread. Parts of one set take the first",
        least=0,
        below=2**32,
    )
    batch_size: int = field(250, "images solved together", least=1)
    split: Literal["train", "test"] = field(
        "train", "what samples are compared with: train, as FIDs are published, or test"
    )
    extractor: Literal["inception", "pixels"] = field(
        "inception", "what computes features; pixels where Inception means nothing"
    )
    resize: Literal["tensorflow", "half_pixel"] = field(
        "tensorflow", "how images become 299x299: tensorflow as the published code does it, half_pixel as pytorch-fid"
    )
    inception_weights: str | None = field(None, "file of Inception's weights; None: found or downloaded")
    reference: str | None = field(None, "an npz of mu and sigma to compare with instead of the split")
    cache: str | None = field(None, "folder of data features; None: ~/.cache/scoreflow_jax/features")
    classifier: bool = field(
        False,
        "train a classifier on the real training images, on pixels or Inception's features, which recognizes samples",
    )
    labels: Literal["reference", "even"] = field(
        "reference", "classes of what is generated: shared as in what it is compared with, or even"
    )
    density_levels: Literal["uniform", "logistic", "tabulated"] = field(
        "tabulated", "how the density formula's noise levels are drawn: tabulated by a pilot of 4,096 calls in all"
    )

    def __post_init__(self) -> None:
        """Refuses no seed, and one twice."""
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise FieldError(f"seeds is {self.seeds}, expected different whole numbers, such as (1, 2, 3)")


if TYPE_CHECKING:

    class EvalSettings(SharedSettings):
        """`config.eval`."""

        def __getattr__(self, part: str) -> Any:
            """A part's section, by its name in `PARTS`."""
            ...

else:
    EvalSettings = dataclasses.make_dataclass(
        "EvalSettings",
        [(name, part, subsection(part)) for name, part in PARTS.items()],
        bases=(SharedSettings,),
        frozen=True,
        kw_only=True,
        namespace={"__doc__": "--mode=eval."},
    )
