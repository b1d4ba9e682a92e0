"""What a run was trained on, as its workdir says, against what its config's data are now: one check for every mode."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from scoreflow_jax import sums
from scoreflow_jax.data.base import SKETCH, DataSource
from scoreflow_jax.errors import UserError, first_line

FACTS = "data.json"
"""Where a workdir has them: `commands/workdir.py` writes it."""

_CLASSES_SHOWN = 12
_SAME_SHARE = 0.3  # of a folder's files: below it, it is another folder
_ADVICE = "Give the same data, or another --workdir"


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """The data of a run.

    Attributes:
        workdir: of the run.
        facts: of its data.json: names of the classes, and a sketch of the files or rows.
    """

    workdir: str
    facts: dict[str, Any]

    @classmethod
    def read(cls, workdir: pathlib.Path) -> "TrainedOn | None":
        """What the workdir says; None where it does not say it, as of an imported checkpoint.

        Raises:
            UserError: data.json is damaged.
        """
        try:
            facts = sums.read_json(workdir / FACTS)
        except FileNotFoundError:
            return None
        except (OSError, sums.Damaged) as error:
            raise UserError(
                f"{first_line(error)}: it says which data the run is of. Restore it, or remove it to go on without that check"
            ) from error
        return cls(str(workdir), facts)

    def check(self, source: DataSource, base: DataSource | None = None, *, files: bool = True) -> None:
        """Refuses other data than the run's.

        Args:
            source: the data at t = 1.
            base: those at t = 0, where they are no noise.
            files: whether these have to be the run's too, or classes alone, as of a test split, which the run knows no files of.

        Raises:
            UserError: classes of other names or in another order, or a folder that has few of its files.
        """
        self._check_names(self.facts, source, "")
        if base is not None:
            self._check_names(self.facts.get("base", {}), base, " at t = 0")
        # A run on pairs knows the files of the pairs, not of the data that they are like.
        if not files or (self.facts.get("kind") == "pairs") != (source.facts.get("kind") == "pairs"):
            return
        now = dict(_sketches({**source.facts, **({} if base is None else {"base": base.facts})}))
        for where, sketch in _sketches(self.facts):
            share = _share_kept(sketch, now.get(where, ()))
            if share < _SAME_SHARE:
                raise UserError(
                    f"{self.workdir} was trained on other data{where}: about {share:.0%} of its files (by name and size) or rows "
                    f"are in these. {_ADVICE}"
                )

    def check_base(self, base: DataSource) -> None:
        """Refuses other classes at t = 0 than the run's."""
        self._check_names(self.facts.get("base", {}), base, " at t = 0")

    def _check_names(self, facts: dict[str, Any], source: DataSource, where: str) -> None:
        if "class_names" not in facts:
            return
        before, now = tuple(map(str, facts["class_names"])), source.class_names
        if before == now or (facts.get("kind") == "pairs" and not before):  # those of an unconditional model name none
            return
        moved = ", the same in another order, so that every number would mean another class" * (
            sorted(before) == sorted(now)
        )
        raise UserError(
            f"{self.workdir} was trained on the classes {_numbered(before, now)}{where}, these data have "
            f"{_numbered(now, before)}{moved}. {_ADVICE}"
        )


def _numbered(names: Sequence[str], others: Sequence[str]) -> str:
    """Names with their numbers; of many those from the first that differs."""
    first = 0
    if len(names) > _CLASSES_SHOWN:
        same = [a == b for a, b in zip(names, others, strict=False)]
        first = same.index(False) if False in same else len(same)
    shown = [f"{i} {names[i]}" for i in range(first, min(first + _CLASSES_SHOWN, len(names)))]
    more = ", ..." if first + _CLASSES_SHOWN < len(names) else ""
    return (", ".join(shown) + more) or "none"


def _sketches(facts: dict[str, Any], where: str = "") -> Iterator[tuple[str, Sequence[str]]]:
    """The sketch of data, and those of their parts and base, with words that say which."""
    if "sketch" in facts:
        yield where, facts["sketch"]
    for name, part in facts.get("parts", {}).items():
        yield from _sketches(part, f"{where} of part {name}")
    if "base" in facts:
        yield from _sketches(facts["base"], f"{where} at t = 0")


def _share_kept(before: Sequence[str], now: Sequence[str]) -> float:
    """The share of a folder's files that another folder has too, estimated from the smallest hashes of both.

    Below the smaller of the two largest hashes both lists are complete, so files that were added change nothing.
    """
    if not before or not now:
        return 1.0
    both_complete = min(max(before), max(now)) if min(len(before), len(now)) >= SKETCH else max(*before, *now)
    looked_at = [h for h in before if h <= both_complete]
    return sum(h in set(now) for h in looked_at) / len(looked_at) if looked_at else 1.0
