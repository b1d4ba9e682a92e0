"""--mode=study: trains and measures a grid of variants with several seeds each, and puts them into one table.

`config.study.cells` names the variants. A cell says what it changes of the config, or that it is another cell's run looked at
otherwise ("of": another sampler, a stage of its reflow); its run may learn from another cell's of the same seed ("teacher").
Each run has a folder <cell>/seed<n>, each measurement a file in measured/, and what is there is kept: the same command goes on
where it was stopped, and adds seeds or cells to a table.
"""

import dataclasses
import pathlib
import re
import sys
from typing import Any

import numpy as np

from scoreflow_jax import files, plots, processes, randomness, sums
from scoreflow_jax.checkpoints import Checkpoints, checkpoint_steps, draws_of
from scoreflow_jax.commands import evaluate, reflow, reports, train
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.commands.teacher import open_teacher
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation import studies
from scoreflow_jax.experiment import Experiment, build
from scoreflow_jax.files import write_json
from scoreflow_jax.parallel import make_layout
from scoreflow_jax.plain_config import config_hash, merged, read_config
from scoreflow_jax.settings.commands import StudySettings

_CELL = {"of", "stage", "changes", "why", "teacher"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A row of the table.

    Attributes:
        name: of the row.
        trained: the cell whose run it is, itself for most.
        teacher: the cell that this run learns from, None for most.
        stage: of that run's reflow; "" for the run itself.
        config: what it is trained with.
        changes: what measuring changes of that.
        why: fields that it cannot have, and why.
    """

    name: str
    trained: str
    teacher: "Cell | None"
    stage: str
    config: dict[str, Any]
    changes: dict[str, Any]
    why: dict[str, str]


def run_command(experiment: Experiment, workdir: pathlib.Path) -> None:
    """Writes study.md, study.json and along_t.png, after each seed what there is.

    Raises:
        UserError: the config has no study, or a cell that cannot be.
    """
    settings = experiment.study
    if not settings.cells:
        raise UserError("the config has no config.study.cells: give one of a study, such as configs/ablation_weight.py")
    cells = cells_of(experiment)
    comparisons_of(experiment)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in cells}
    for seed in settings.seeds:
        for cell in cells.values():
            print(f"study: {cell.name}, seed {seed}", flush=True)
            rows[cell.name].append(_figures(cell, seed, workdir))
        _write(experiment, workdir, cells, rows)
    print((workdir / "study.md").read_text())
    print(f"see {workdir / 'study.md'}")


def cells_of(experiment: Experiment) -> dict[str, Cell]:
    """The cells with their configs, all built once: what cannot be is said before hours of work."""
    settings, found = experiment.study, {}
    base = {name: value for name, value in experiment.config.items() if name != "study"}
    if settings.baseline not in settings.cells:
        raise UserError(f"config.study.baseline is {settings.baseline!r}, expected one of {', '.join(settings.cells)}")
    for name in settings.order or tuple(settings.cells):
        given = settings.cells[name]
        if not isinstance(given, dict) or not isinstance(given.get("changes", {}), dict):
            raise UserError(f"config.study.cells.{name} is {given!r}, expected a section with what it changes")
        unknown = sorted(set(given) - _CELL)
        if unknown:
            raise UserError(f"config.study.cells.{name} has {unknown[0]!r}, expected {', '.join(sorted(_CELL))}")
        trained = given.get("of", name)
        if trained != name and (trained not in settings.cells or "of" in settings.cells[trained]):
            raise UserError(f"config.study.cells.{name} is of {trained!r}, expected a cell that is trained itself")
        if trained != name and "teacher" in given:
            raise UserError(
                f"config.study.cells.{name} is of {trained!r}, whose run has its teacher: leave that of {name} out"
            )
        config = merged(base, settings.cells[trained].get("changes", {}))
        teacher = _teacher(settings, base, trained)
        changes = given.get("changes", {}) if trained != name else {}
        evaluate.chosen_parts(build(merged(config, changes)), quiet=True)
        found[name] = Cell(
            name, trained, teacher, str(given.get("stage", "")), config, changes, dict(given.get("why", {}))
        )
    folders: dict[str, str] = {}
    for name in settings.cells:
        if (other := folders.setdefault(slug(name), name)) != name:
            raise UserError(
                f"the cells {other!r} and {name!r} of config.study would share the folder {slug(name)}: rename one"
            )
    return found


def _teacher(settings: StudySettings, base: dict[str, Any], trained: str) -> Cell | None:
    """The cell that a cell's run learns from, which learns from none itself."""
    name = settings.cells[trained].get("teacher")
    if name is None:
        return None
    its = settings.cells.get(name, {"of": ""})
    if "of" in its or "teacher" in its:
        raise UserError(
            f"the teacher of config.study.cells.{trained} is {name!r}, expected a cell that is trained without one"
        )
    return Cell(name, name, None, "", merged(base, its.get("changes", {})), {}, {})


def comparisons_of(experiment: Experiment) -> dict[str, studies.Comparison]:
    """What the study is to decide, by name.

    Raises:
        UserError: a field that a comparison does not have, a row that the study does not have, or an unknown figure.
    """
    found, fields = {}, studies.Comparison._fields
    for name, given in experiment.study.comparisons.items():
        if set(given) != set(fields):
            raise UserError(f"config.study.comparisons.{name} has {sorted(given)}, expected {', '.join(fields)}")
        names = {"cell": tuple(experiment.study.cells), "against": tuple(experiment.study.cells)}
        names["figure"] = tuple(column.field for column in studies.COLUMNS)
        for field, expected in names.items():
            if given[field] not in expected:
                raise UserError(
                    f"config.study.comparisons.{name}.{field} is {given[field]!r}, expected one of {', '.join(expected)}"
                )
        found[name] = studies.Comparison(**given)
    return found


def _figures(cell: Cell, seed: int, workdir: pathlib.Path) -> dict[str, Any]:
    """What was measured of one run, trained and measured first where that is not done."""
    config = {**cell.config, "seed": seed}
    kept = workdir / "measured" / slug(cell.name) / f"seed{seed}.json"
    folder = _folder(cell.trained, seed, workdir)
    drawn = _drawn(config, folder)
    facts = {
        "trained": config,
        "changes": cell.changes,
        "stage": cell.stage,
        "draws": {"trained": drawn, "measured": randomness.VERSION},
        **({"teacher": {**cell.teacher.config, "seed": seed}} if cell.teacher else {}),
    }
    identity = config_hash({**facts, "labels": build(config).eval.labels})  # of which older configs say nothing
    known = _known(kept, identity)
    if known is not None:
        return known
    if cell.teacher:
        theirs = _folder(cell.teacher.name, seed, workdir)
        _train({**cell.teacher.config, "seed": seed}, theirs)
        config = merged(config, {"objective": {"teacher": str(theirs)}})
    experiment = _train(config, folder)
    if cell.stage:
        stages = reflow.make_stages(experiment, folder)
        if cell.stage not in stages:
            raise UserError(f"the reflow of {cell.trained} has the stages {', '.join(stages)}, not {cell.stage!r}")
        folder = stages[cell.stage]
        config = _measured_as(config, read_config(folder))
    measured = build(merged(config, cell.changes))
    evaluate.run_command(measured, folder)
    processes.wait_for_all("evaluation")
    report = folder / "eval" / str(measured.train.num_steps) / "report.json"
    figures = {**studies.figures_of(sums.read_json(report)), "draws": drawn}
    sums.write_json(kept, {"identity": identity, "figures": figures})
    return figures


def _folder(trained: str, seed: int, workdir: pathlib.Path) -> pathlib.Path:
    """Of the run of a cell that is trained."""
    return workdir / slug(trained) / f"seed{seed}"


def _drawn(config: dict[str, Any], folder: pathlib.Path) -> int:
    """The version of the draws that a run was trained with, or will be."""
    done = config["train"]["num_steps"]
    if done not in checkpoint_steps(folder / "checkpoints"):
        return randomness.VERSION
    return draws_of(Checkpoints.read_meta(folder / "checkpoints", done))


def _train(config: dict[str, Any], folder: pathlib.Path) -> Experiment:
    """Trains a run to its end where it is not there."""
    experiment = build(config)
    workdirs.check_may_train(experiment, folder)
    if experiment.train.num_steps not in checkpoint_steps(folder / "checkpoints"):
        train.run_command(experiment, folder)
    elif experiment.objective.teacher_run[0]:
        open_teacher(experiment, make_layout(), folder)  # which says so where it is not the one that was learned from
    return experiment


def _measured_as(config: dict[str, Any], stage: dict[str, Any]) -> dict[str, Any]:
    """A stage's config with the settings of the cell for all that measures; a student keeps the steps that it was trained for."""
    student = build(stage).objective.distils
    sections = ("eval", "sample", "sampler", *(() if student else ("solver",)))
    return {**stage, **{name: config[name] for name in sections if name in config}}


def _known(path: pathlib.Path, identity: str) -> dict[str, Any] | None:
    try:
        stored = sums.read_json(path)
        return stored["figures"] if stored["identity"] == identity else None
    except sums.Damaged as error:
        print(f"{error}: measured anew", file=sys.stderr)
        return None
    except (OSError, KeyError):
        return None


def _write(
    experiment: Experiment, workdir: pathlib.Path, cells: dict[str, Cell], rows: dict[str, list[dict[str, Any]]]
) -> None:
    """The table, what differs from the baseline, and where along t."""
    settings = experiment.study
    count = len(rows[settings.baseline])
    parts = [
        f"# {experiment.name}",
        f"{count} seed{'s' * (count > 1)}, which all rows share; ± is half of a 95 % interval by Student's t; n: images "
        "generated of each. Differences are taken seed by seed. So many of them are no verdict: some look large by chance, and "
        f"different is only what was fixed beforehand and {studies.SEEDS} seeds show, corrected for how many there are.",
        studies.table(
            rows, {name: cell.why for name, cell in cells.items()}, first=experiment.eval.generation.first_images
        ),
    ]
    if settings.comparisons:
        parts.append(studies.decided(rows, comparisons_of(experiment)))
    parts.append(studies.differences(rows, settings.baseline))
    older = [name for name, runs in rows.items() if any(run.get("draws") != randomness.VERSION for run in runs)]
    if older:
        parts.append(
            f"Trained with an earlier version of the draws than {randomness.VERSION}, at least in part: {', '.join(older)}. Some "
            "of its random numbers were not independent (docs/architecture.md); remove these runs to train them anew."
        )
    times = next((row[0]["times"] for row in rows.values() if "times" in row[0]), None)
    found = {} if times is None else studies.along_t(rows, settings.baseline, times)
    if times is not None and found:
        parts.append(studies.table_along_t(found, settings.baseline, times))
        _draw(experiment, workdir / "along_t.png", found, times)
        if plots.can_save():
            parts.append("![held-out error along t](along_t.png)")
    with files.whole_file(workdir / "study.md") as path:
        path.write_text("\n\n".join(parts) + "\n")
    facts = {"name": experiment.name, "seeds": list(settings.seeds[:count]), "rows": rows, **reports.environment()}
    write_json(workdir / "study.json", facts)


def _draw(experiment: Experiment, path: pathlib.Path, found: dict[str, Any], times: list[float]) -> None:
    curves = []
    for name, means in found.items():
        value = np.asarray([mean.value for mean in means])
        band = np.nan_to_num(np.asarray([mean.half for mean in means]))
        low, high = (value - band).tolist(), (value + band).tolist()
        curves.append(plots.Curve(name, times, value.tolist(), low, high, marked=False))
    title = f"Held-out error of the velocity less that of\n{experiment.study.baseline} (band: 95 % interval)"
    with files.whole_file(path) as temporary:
        plots.save_curves(temporary, curves, plots.Axes(title, "t", "difference of mean squares"))


def slug(name: str) -> str:
    """A name as a folder's: a minus before a number is one."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<![a-z0-9])-(?=\d)", "minus ", name.lower())).strip("_")
