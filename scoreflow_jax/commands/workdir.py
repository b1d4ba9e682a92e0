"""The folder of a run: whose config and data it holds, who may write there, and the model in it."""

import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import platform
import sys
import time
from collections.abc import Iterator

import jax

from scoreflow_jax import processes, sums
from scoreflow_jax.checkpoints import checkpoint_steps
from scoreflow_jax.data import FACTS, DataSource, TrainedOn, Units, class_counts, numbered
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.experiment import Experiment, build, resolve
from scoreflow_jax.loading import load_model
from scoreflow_jax.model import Model
from scoreflow_jax.plain_config import (
    DATA_TRAINING_ONLY,
    MODEL_FIELDS,
    TRAINING_FIELDS,
    TRAINING_ONLY,
    Config,
    differences,
    read_config,
    to_plain,
)

_LOCK = ".lock"
_SHARED_WITHIN = 20.0  # seconds that a network file system may take to show a file to another host
_CLASSES_SHOWN = 12


def build_for(mode: str, config: Config, workdir: pathlib.Path) -> Experiment:
    """Builds an experiment. What the config leaves to the data is as the run in the workdir has it, else as the data are.

    Training looks at the data in any case, since they may have changed.

    Args:
        mode: of the command line, such as "train".
        config: as the command line gives it.
        workdir: of the run, which may not be there yet.
    """
    run = read_config(workdir) if (workdir / "config.json").is_file() else None
    experiment = build(resolve(config, None if mode == "train" else run, run=run))
    if not experiment.spec.is_points or not checkpoint_steps(workdir / "checkpoints"):
        return experiment
    # A table that has grown has another mean, but the network knows the points as the run's first table standardized them.
    settings = dataclasses.replace(experiment.data, units=dataclasses.asdict(read_units(workdir)))
    return dataclasses.replace(experiment, data=settings)


def read_units(workdir: pathlib.Path, *, base: bool = False) -> Units:
    """How the run standardized the points of its table, or of the one at t = 0.

    Raises:
        UserError: data.json is not there, or does not say.
    """
    try:
        facts = sums.read_json(workdir / FACTS)
        return Units.of(facts["base"] if base else facts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{workdir / FACTS} does not say how the run standardized its table ({first_line(error)}): restore that file, or "
            "train in another workdir"
        ) from error


def check_may_train(experiment: Experiment, workdir: pathlib.Path) -> None:
    """Refuses a workdir that holds the checkpoints of another config; changes nothing.

    Raises:
        UserError: it does, or it holds checkpoints of no known config.
    """
    if not checkpoint_steps(workdir / "checkpoints"):
        return
    if not (workdir / "config.json").exists():
        raise UserError(f"{workdir} holds checkpoints but no config.json: restore that file, or use another --workdir")
    _check_same(experiment, workdir, TRAINING_FIELDS, "resume it with the same config")


def describe(source: DataSource, sampling: str = "") -> str:
    """How many images there are of what, for the terminal."""
    counts = class_counts(source)
    total = f"{len(source)} {'points' if source.spec.is_points else 'images'}"
    if not source.spec.num_classes:
        names = f", all of one class ({source.class_names[0]})" if source.class_names else ""
        return f"{total} without classes{names}"
    names = numbered(source.class_names)
    if counts is not None:
        names = [f"{name}: {count}" for name, count in zip(names, counts, strict=True)]
    more = f", and {len(names) - _CLASSES_SHOWN} classes more" if len(names) > _CLASSES_SHOWN else ""
    drawn = f", {sampling} sampling" if sampling else ""
    return f"{total}{drawn} of {len(names)} classes: {', '.join(names[:_CLASSES_SHOWN])}{more}"


def warn_of_empty_classes(source: DataSource) -> None:
    """A class without training examples is one that the model is asked for and never sees."""
    empty = [name for name, n in zip(source.class_names, class_counts(source) or (), strict=False) if not n]
    if empty:
        more = f" and {len(empty) - _CLASSES_SHOWN} more" if len(empty) > _CLASSES_SHOWN else ""
        print(
            f"warning: no training examples of {len(empty)} of {len(source.class_names)} classes, "
            f"{', '.join(empty[:_CLASSES_SHOWN])}{more}: the model is told of classes that it never sees. Number the classes "
            "from 0 without gaps, or add examples; where all that there are are held out, lower config.data.test_share",
            file=sys.stderr,
        )


def trained_classes(experiment: Experiment) -> list[int]:
    """The classes of which the run in hand had training examples; all where it does not say."""
    counts = experiment.trained_on.facts.get("train_images_by_class") if experiment.trained_on is not None else None
    every = range(experiment.num_classes)
    return [c for c in every if counts[c]] if counts is not None and len(counts) == len(every) else list(every)


def write_data_facts(
    experiment: Experiment, workdir: pathlib.Path, source: DataSource, base: DataSource | None
) -> None:
    """Writes data.json: the classes' names, and what the run was trained on.

    Args:
        experiment: whose `config.data.sampling` is noted.
        workdir: of the run.
        source: the training data.
        base: the data at t = 0; None: noise, or the training data bring their own.
    """
    sums.write_json(
        workdir / FACTS,
        {
            "class_names": source.class_names,
            "train_images": len(source),
            "train_images_by_class": class_counts(source),
            "sampling": experiment.data.sampling,
            **source.facts,
            **({} if base is None else {"base": {"class_names": base.class_names, **base.facts}}),
        },
    )


def class_names(experiment: Experiment, workdir: pathlib.Path) -> tuple[str, ...]:
    """The names of the model's classes, as the run in the workdir knows them; their numbers where it does not."""
    try:
        names = tuple(str(name) for name in sums.read_json(workdir / FACTS)["class_names"])
    except (OSError, KeyError, TypeError):
        names = ()
    return names if len(names) == experiment.num_classes else tuple(map(str, range(experiment.num_classes)))


def check_same_data(source: DataSource, base: DataSource | None, workdir: pathlib.Path) -> None:
    """Refuses to go on with a run on other data: other classes, or a folder that has few of its files.

    Args:
        source: the data at t = 1.
        base: those at t = 0, where they are no noise.
        workdir: of the run.

    Raises:
        UserError: with what differs.
    """
    known = TrainedOn.read(workdir)
    if known is not None and checkpoint_steps(workdir / "checkpoints"):
        known.check(source, base)


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Makes the workdir and keeps it to this run: two trainings in one would delete each other's checkpoints.

    Of several processes the first one locks it, and the others see whether they see the same folder.

    Raises:
        UserError: another run trains there, it cannot be written, or it is not one folder for all processes.
    """
    with contextlib.ExitStack() as held:
        with processes.all_or_none():
            if jax.process_index() == 0:
                held.enter_context(_lock(workdir))
        with processes.all_or_none():
            _check_shared(workdir)
        yield


def _check_shared(workdir: pathlib.Path) -> None:
    """Whether every process sees what the first one has just written into the lock's file."""
    if jax.process_count() == 1:
        return
    token = processes.gather_text((workdir / _LOCK).read_text() if jax.process_index() == 0 else "")[0]
    until = time.monotonic() + _SHARED_WITHIN
    while not (workdir / _LOCK).is_file() or (workdir / _LOCK).read_text() != token:
        if time.monotonic() > until:
            raise UserError(
                f"{workdir} is not the same folder for all processes: give a --workdir on a file system that all of them share"
            )
        time.sleep(0.2)


@contextlib.contextmanager
def _lock(workdir: pathlib.Path) -> Iterator[None]:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / _LOCK).open("a")
    except OSError as error:
        raise UserError(f"cannot write to {workdir} ({first_line(error)}): give another --workdir") from error
    with file:
        if importlib.util.find_spec("fcntl") is not None:  # not on Windows
            import fcntl

            for wait in (0.2, 0.0):  # --mode=status looks by a lock of its own, which it drops at once
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(wait)
                except OSError as error:
                    print(
                        f"{workdir} cannot be locked ({first_line(error)}): start no second training there",
                        file=sys.stderr,
                    )
                    break
            else:
                raise UserError(f"another process trains in {workdir}: wait for it, stop it, or give another --workdir")
        file.truncate(0)
        file.write(f"{platform.node()} {os.getpid()} {time.time_ns()}")
        file.flush()
        yield


def of_run(experiment: Experiment, workdir: pathlib.Path) -> Experiment:
    """The experiment that opens no other data than those of the run in the workdir."""
    return dataclasses.replace(experiment, trained_on=TrainedOn.read(workdir))


def open_model(experiment: Experiment, workdir: pathlib.Path, *, batch_size: int, with_data: bool = True) -> Model:
    """Loads the run's averaged parameters; the model's experiment opens the data of the run, or refuses (`data.TrainedOn`).

    Args:
        experiment: of the config at hand.
        workdir: of the run.
        batch_size: of solves.
        with_data: whether the mode opens the data, so that what is held out has to be as the run had it.

    Raises:
        UserError: no run there, one of another network or of other held-out data, or no whole checkpoint.
    """
    read_config(workdir)
    _check_same(experiment, workdir, MODEL_FIELDS, "give the config of that run", TRAINING_ONLY)
    if with_data or experiment.data.base:
        _check_held_out(experiment, workdir)
    return load_model(experiment, workdir, batch_size=batch_size)


def _check_same(
    experiment: Experiment, workdir: pathlib.Path, fields: tuple[str, ...], advice: str, free: tuple[str, ...] = ()
) -> None:
    theirs = to_plain(read_config(workdir))
    changed = differences(experiment.config, theirs, fields, free)
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"{workdir} is the workdir of another config ({theirs.get('name')}): {'; '.join(changed[:3])}{more}. "
            f"Expected the same values: {advice}, or another --workdir"
        )


def _check_held_out(experiment: Experiment, workdir: pathlib.Path) -> None:
    """The run has settled which examples are held out and how they become pixels: else some that it was trained on are measured.

    An imported checkpoint was trained elsewhere, so any data will do.
    """
    if TrainedOn.read(workdir) is None:
        return
    theirs = to_plain(read_config(workdir))
    changed = differences(experiment.config, theirs, ("data",), DATA_TRAINING_ONLY)
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"config.{'; config.'.join(changed[:3])}{more} of the run in {workdir}: which examples are held out and how they "
            "become pixels belongs to the run. Leave the run's value, or train with the other one in another --workdir"
        )
