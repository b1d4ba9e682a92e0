"""--mode=pack: writes the data, decoded and at the training size, to array_record files that training reads instead."""

import dataclasses
import pathlib
import time

from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.data import NoExamples, check_spec, is_packed, open_source
from scoreflow_jax.data.packed import write_pack
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.user_paths import user_path


def run_command(experiment: Experiment, workdir: pathlib.Path, out: str) -> None:
    """Packs both splits of `config.data`; a test split without images is left out, with a line that says so.

    Args:
        experiment: whose data to pack.
        workdir: not touched.
        out: the folder to write.

    Raises:
        UserError: the data are packed already or are points of a table, or the folder is not empty.
    """
    del workdir
    if is_packed(experiment.data.path):
        raise UserError(f"{experiment.data.path} is a pack already: give the data themselves as config.data.path")
    if experiment.spec.is_points:
        raise UserError("a table needs no packing: it is read into memory whole")
    whole = dataclasses.replace(experiment.data, classes=())  # a selection is made again where the pack is read
    splits = {"train": open_source("train", whole)}
    try:
        splits["test"] = open_source("test", whole)
    except NoExamples as error:
        print(f"packing without a test split: {error}")
    if experiment.data.base.keys() & {"source", "name", "path"}:
        print(
            "only the data at t = 1 are packed: pack those of config.data.base by --config.data.path=THEIRS, to another --out"
        )
    check_spec(
        splits["train"],
        experiment.spec,
        whole.name,
        with_classes=experiment.conditional and not experiment.data.classes,
    )
    workdirs.warn_of_empty_classes(splits["train"])
    start = time.perf_counter()
    write_pack(out, splits, whole)
    seconds, images = time.perf_counter() - start, sum(map(len, splits.values()))
    for name, source in splits.items():
        print(f"{name}: {workdirs.describe(source)}")
    size = sum(file.stat().st_size for file in user_path(out).iterdir())
    print(
        f"packed {images} images ({size / 1e6:.0f} MB) at {images / seconds:.0f} images/s; train with --config.data.path={out}"
    )
