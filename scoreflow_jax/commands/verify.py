"""--mode=status --verify: reads every stored number of a run, and says what is whole."""

import collections
import os
import pathlib

from scoreflow_jax import sums
from scoreflow_jax.checkpoints import check_whole
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.progress import progress

_SHOWN = 20  # damaged files that are named


def verify(workdir: pathlib.Path) -> list[str]:
    """Lines about the files below a workdir, stages and runs of a study included: checkpoints, pairs, arrays, JSON and records.

    Raises:
        UserError: some are damaged; it names them.
    """
    counts: collections.Counter[str] = collections.Counter()
    without, damaged = [], []
    found = list(_stored(workdir))
    with progress("comparing sums", len(found), " files and folders") as bar:
        for kind, path in found:
            try:
                compared = _compare(kind, path)
            except (OSError, sums.Damaged) as error:
                damaged.append(f"{path.relative_to(workdir)}: {first_line(error)}")
            else:
                counts[kind] += 1
                if not compared:
                    without.append(path.relative_to(workdir).as_posix())
            bar.update(1)
    told = ", ".join(f"{kind}: {count:,}" for kind, count in sorted(counts.items())) or "nothing"
    lines = [f"whole        {told}"]
    if without:
        more = f" and {len(without) - _SHOWN} more" if len(without) > _SHOWN else ""
        lines.append(f"without sums, of an earlier version: {', '.join(without[:_SHOWN])}{more}")
    if damaged:
        more = f"; and {len(damaged) - _SHOWN} more" if len(damaged) > _SHOWN else ""
        raise UserError(f"{len(damaged)} of {len(found)} are damaged: {'; '.join(damaged[:_SHOWN])}{more}")
    return lines


def _stored(workdir: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    """Kinds and paths of all that has sums, or should have."""
    found: list[tuple[str, pathlib.Path]] = []
    for name, folders, names in os.walk(workdir):
        folder = pathlib.Path(name)
        if folder.name.isdigit() and folder.parent.name in ("checkpoints", "state"):
            found.append(("checkpoints", folder))
            folders.clear()
            continue
        folders[:] = sorted(f for f in folders if f not in ("tensorboard", "profile") and not f.startswith("damaged-"))
        if sums.SUMS in names:
            found.append(("pairs", folder))
        found += [("arrays", folder / each) for each in sorted(names) if each.endswith(".npz")]
        found += [("JSON", folder / each) for each in sorted(names) if each.endswith(".json")]
        found += [("records", folder / each) for each in names if each == "metrics.jsonl"]
    return found


def _compare(kind: str, path: pathlib.Path) -> bool:
    """Whether there were sums to compare with; raises `sums.Damaged` where they differ."""
    if kind == "checkpoints":
        return check_whole(path)
    if kind == "pairs":
        stated = sums.read_sums(path) or {}
        sums.check_files(path, stated, stated.keys())
    elif kind == "arrays":
        sums.read_arrays(path)
    elif kind == "JSON":
        sums.read_json(path, say=False)
    else:
        broken = sums.damaged_lines(path.read_text(errors="replace"))
        if broken:
            raise sums.Damaged(f"{len(broken)} lines are damaged, the first is line {broken[0]}")
    return True
