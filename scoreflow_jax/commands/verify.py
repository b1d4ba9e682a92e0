"""--mode=status --verify: reads every stored number of a run, and says what is whole."""

import collections
import os
import pathlib
from typing import NamedTuple

from scoreflow_jax import sums
from scoreflow_jax.checkpoints import check_whole
from scoreflow_jax.data.pairs import ABOUT, shard_names
from scoreflow_jax.data.trained_on import FACTS
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.model import KEPT_GRID
from scoreflow_jax.progress import progress

_SHOWN = 20  # damaged files that are named


class _Stored(NamedTuple):
    """Something that a run has stored.

    Attributes:
        kind: of file, as the lines call it.
        path: of a file, or of a folder with SHA256SUMS.
        has_sum: whether files of its kind have a sum, but for those of earlier versions.
    """

    kind: str
    path: pathlib.Path
    has_sum: bool = True


def verify(workdir: pathlib.Path) -> list[str]:
    """Lines about the files below a workdir, stages and runs of a study included: checkpoints, pairs, arrays, JSON and records.

    Raises:
        UserError: some are damaged; it names them.
    """
    counts: collections.Counter[str] = collections.Counter()
    without, damaged = [], []
    found = list(_stored(workdir))
    with progress("comparing sums", len(found), " files and folders") as bar:
        for stored in found:
            name = stored.path.relative_to(workdir).as_posix()
            try:
                compared = _compare(stored)
            except (OSError, sums.Damaged) as error:
                if stored.path.exists():  # else training has deleted it meanwhile
                    damaged.append(f"{name}: {first_line(error)}")
            else:
                counts[stored.kind] += compared or not stored.has_sum
                without += [] if compared or not stored.has_sum else [name]
            bar.update(1)
    counted = ", ".join(f"{kind}: {count:,}" for kind, count in sorted(counts.items()) if count) or "nothing"
    lines = [f"whole        {counted}"]
    if without:
        more = f" and {len(without) - _SHOWN} more" if len(without) > _SHOWN else ""
        lines.append(f"without sums, of an earlier version: {', '.join(without[:_SHOWN])}{more}")
    if damaged:
        more = f"; and {len(damaged) - _SHOWN} more" if len(damaged) > _SHOWN else ""
        raise UserError(f"{len(damaged)} of {len(found)} are damaged: {'; '.join(damaged[:_SHOWN])}{more}")
    return lines


def _stored(workdir: pathlib.Path) -> list[_Stored]:
    """What the commands write below a workdir, and no other files that lie there."""
    found: list[_Stored] = []
    for name, folders, names in os.walk(workdir):
        folder = pathlib.Path(name)
        if folder.name.isdigit() and folder.parent.name in ("checkpoints", "state"):
            found.append(_Stored("checkpoints", folder))
            folders.clear()
            continue
        folders[:] = sorted(f for f in folders if f not in ("tensorboard", "profile") and not f.startswith("damaged-"))
        if ABOUT in names:
            found.append(_Stored("pairs", folder))
        evaluated = folder.parent.name == "eval"
        for each in sorted(names):
            if each.endswith(".npz"):
                found.append(_Stored("arrays", folder / each))
            elif (
                each in (FACTS, ABOUT, KEPT_GRID)
                or (evaluated and each == "report.json")
                or _is_measured(folder / each)
            ):
                found.append(_Stored("JSON", folder / each))
            elif each in ("config.json", "report.json", "study.json", "diagnosis.json", "import.json"):
                # Nothing is computed from it, or it is a file to edit.
                found.append(_Stored("JSON", folder / each, has_sum=False))
            elif each == "metrics.jsonl":
                found.append(_Stored("records", folder / each))
    return found


def _is_measured(path: pathlib.Path) -> bool:
    """Whether it is what a study keeps of a run: measured/<cell>/seed<number>.json."""
    return path.suffix == ".json" and path.name.startswith("seed") and path.parent.parent.name == "measured"


def _compare(stored: _Stored) -> bool:
    """Whether there were sums to compare with; raises `sums.Damaged` where they differ, or what must be there is not."""
    path = stored.path
    if stored.kind == "checkpoints":
        return check_whole(path)
    if stored.kind == "pairs":
        return _compare_pairs(path)
    if stored.kind == "arrays":
        sums.read_arrays(path)
        return True
    if stored.kind == "JSON":
        return sums.read_object(path)[1]
    text = path.read_text(errors="replace")
    broken = sums.damaged_lines(text)
    if broken:
        raise sums.Damaged(f"{len(broken)} lines are damaged, the first is line {broken[0]}")
    return sums.has_sums(text)


def _compare_pairs(folder: pathlib.Path) -> bool:
    """Compares stored pairs with their sums: as many shards as pairs.json says."""
    about, stated = sums.read_object(folder / ABOUT)[0], sums.read_sums(folder)
    try:
        number = -(-int(about["num_pairs"]) // int(about["shard_size"]))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise sums.Damaged(f"{ABOUT} is damaged ({first_line(error)})") from error
    names = [name for shard in range(number) for name in shard_names(shard)]
    if stated is not None:
        sums.check_files(folder, stated, {*stated, *names})
    elif missing := [name for name in names if not (folder / name).is_file()]:
        raise sums.Damaged(f"{missing[0]} is missing")
    return stated is not None
