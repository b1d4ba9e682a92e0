"""--mode=compare: several evaluations in one table, and what differs in how they were measured."""

import pathlib

from scoreflow_jax import files
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.comparison import compare, read_report
from scoreflow_jax.experiment import Experiment


def run_command(experiment: Experiment, workdir: pathlib.Path, reports: str) -> None:
    """Prints the table and writes compare.md.

    Args:
        experiment: not used.
        workdir: where compare.md goes.
        reports: files or folders of --mode=eval, separated by commas.
    """
    del experiment
    paths = [path for path in reports.split(",") if path]
    if len(paths) < 2:
        raise UserError(
            "--reports names fewer than two evaluations; expected --reports=runs/a/eval/1000,runs/b/eval/1000"
        )
    names = [path.removesuffix("report.json").rstrip("/") for path in paths]
    if len(set(names)) < len(names):
        raise UserError("--reports names the same evaluation twice")
    table = compare({name: read_report(path) for name, path in zip(names, paths, strict=True)})
    print(table)
    with files.whole_file(workdir / "compare.md") as path:
        path.write_text(table + "\n")
    print(f"\nsee {workdir / 'compare.md'}")
