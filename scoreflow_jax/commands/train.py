"""--mode=train: trains, or goes on from the newest checkpoint of the workdir; on all devices of all processes."""

import collections
import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scoreflow_jax import figures, files, plots, processes, randomness, writers
from scoreflow_jax.checkpoints import Checkpoints, draws_of
from scoreflow_jax.commands import failures, points
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.commands.teacher import begun_from, open_teacher, with_teacher
from scoreflow_jax.data import DataSource, Units
from scoreflow_jax.data.pipeline import check_epoch_holds_batch, check_workers, train_batches
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.evaluation.point_plots import PointPlots
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.model import Model
from scoreflow_jax.parallel import (
    Layout,
    check_batch_size,
    local_rows,
    make_layout,
    peak_flops,
    replicate,
    to_global,
)
from scoreflow_jax.plain_config import TRAINING_FIELDS, differences, say_edited, to_plain, with_end
from scoreflow_jax.processes import Stopped, StopRequests
from scoreflow_jax.training import (
    PROFILE_AFTER,
    Hooks,
    Profile,
    Steps,
    TrainState,
    compile_step,
    create_state,
    joined_state,
    run,
    several,
    split_state,
    state_shapes,
)
from scoreflow_jax.typing import PyTree

_AHEAD = 2  # batches on their way to the devices
_GRID_ROWS = 4  # of the pictures drawn while training, one column a class
_UNCONDITIONAL_COLUMNS = 8
_POINTS = 1000  # drawn while training on a table


Start = Callable[[Layout], PyTree]
"""Parameters to begin with, where they are not drawn."""


def run_command(experiment: Experiment, workdir: pathlib.Path, start: Start | None = None) -> None:
    """Trains to config.train.num_steps, writing all to the workdir. What can be refused is refused before it is touched.

    Args:
        experiment: to train.
        workdir: of the run.
        start: gives the parameters of step 0, which their average begins with too.

    Raises:
        Stopped: by SIGTERM or SIGINT, after saving.
    """
    with processes.all_or_none():
        layout = make_layout(fsdp=experiment.train.fsdp)
        check_batch_size(experiment.train.batch_size, layout, experiment.train.microbatches)
        check_workers(experiment.train.num_workers)
        experiment, taught_by = open_teacher(experiment, layout, workdir)
        experiment.check_trainable(None if taught_by is None else taught_by.params)
        workdirs.check_may_train(experiment, workdir)
        source, base = open_sources(experiment)
        for each in (source, base):
            if each is not None:
                check_epoch_holds_batch(experiment.train.batch_size, len(each))
        workdirs.check_same_data(source, base, workdir)
    for each in (source, base):
        if each is not None:
            processes.check_alike("data set", f"{len(each)} examples {each.facts.get('sketch', '')}"[:300])
    keep = experiment.train.keep_checkpoints
    with workdirs.locked(workdir), Checkpoints(workdir / "checkpoints", keep=keep) as checkpoints:
        _train(experiment, workdir, (source, base), layout, checkpoints, start, taught_by)


def open_sources(experiment: Experiment) -> tuple[DataSource, DataSource | None]:
    """The training data, and those at t = 0 where they are no noise."""
    apart = experiment.data.base and experiment.data.pairs is None  # pairs bring their own
    return experiment.training_source(), experiment.base_split("train") if apart else None


def _train(
    experiment: Experiment,
    workdir: pathlib.Path,
    sources: tuple[DataSource, DataSource | None],
    layout: Layout,
    checkpoints: Checkpoints,
    begin: Start | None = None,
    taught_by: Model | None = None,
) -> None:
    state, meta = _start(experiment, workdir, layout, checkpoints, begin, taught_by)
    consumed = meta["batches"]
    first = int(state.step)
    if first >= experiment.train.num_steps:
        print(f"already trained to step {first}: raise --config.train.num_steps to go on, or give another --workdir")
        return
    files.write_json(workdir / "config.json", experiment.config)
    workdirs.write_data_facts(experiment, workdir, *sources)
    for name, each in zip(("data", "data at t = 0"), sources, strict=True):
        if each is not None:
            sampling = experiment.data.sampling if each is sources[0] else ""
            print(f"{name}: {workdirs.describe(each, sampling)}", flush=True)
            workdirs.warn_of_empty_classes(each)
    overview = writers.parameter_overview(state.params)
    with files.whole_file(workdir / "parameters.txt") as path:
        path.write_text(overview + "\n")
    print(overview.splitlines()[-1] + f"; all by name in {workdir / 'parameters.txt'}", flush=True)
    steps = compiled_steps(experiment, layout, state)
    batches = global_batches(experiment, sources, layout, consumed)
    every = meta.get("config", {}).get("train", {}).get("log_every", 1)  # of the steps until now
    writer = writers.open_writers(
        workdir, first_step=first, tensorboard=experiment.train.tensorboard, logged=_logged(first, every)
    )
    start = time.perf_counter()
    with (
        Profile(workdir / "profile", first + PROFILE_AFTER, experiment.train.profile_steps) as profile,
        StopRequests() as stop,
    ):
        hooks = Hooks(
            save=lambda n, s, pending: save_state(checkpoints, n, s, experiment, consumed + n - first, pending),
            sample=_sampler(experiment, workdir, sources[0], layout),
            dump=lambda n, s, record: failures.dump(experiment, workdir, sources, n, s, record, consumed + n - first),
            profile=profile.step,
            check=checkpoints.check,
        )
        try:
            run(
                state,
                steps,
                batches,
                experiment.train,
                batch_size=experiment.train.batch_size,
                writer=writer,
                hooks=hooks,
                stop=stop,
                pending=meta.get("pending", ()),
            )
            checkpoints.wait()
        except Stopped:
            checkpoints.wait()
            raise
        finally:
            writer.close()
            batches.close()
    seconds = time.perf_counter() - start
    print(f"trained steps {first} to {experiment.train.num_steps} in {seconds:.0f} s; see {workdir / 'train'}")


def _logged(step: int, every: int) -> int:
    """The last step up to this one of which there is a record."""
    return step - step % every


def _start(
    experiment: Experiment,
    workdir: pathlib.Path,
    layout: Layout,
    checkpoints: Checkpoints,
    begin: Start | None,
    taught_by: Model | None,
) -> tuple[TrainState, dict[str, Any]]:
    """The state to go on from and what is known of it: the newest whole checkpoint's, else those of step 0."""
    state, meta = _start_alone(experiment, workdir, layout, checkpoints, begin)
    if taught_by is None:
        return state, meta
    if not int(state.step) and begin is None:
        params, found = begun_from(state.params, taught_by, experiment)
        words = "begins with its weights" if found else "is another one and begins afresh"
        state = dataclasses.replace(state, params=params, ema_params=jax.tree.map(jnp.copy, params))
    else:
        words = "is gone on with"
    print(
        f"learns from step {taught_by.step} of {experiment.objective.teacher_run[0]}; the network {words}", flush=True
    )
    return with_teacher(state, taught_by, layout), meta


def _start_alone(
    experiment: Experiment, workdir: pathlib.Path, layout: Layout, checkpoints: Checkpoints, begin: Start | None
) -> tuple[TrainState, dict[str, Any]]:
    """The same without a teacher."""
    shapes = state_shapes(experiment.initial_state, layout)
    ema, train = split_state(shapes)
    restored = checkpoints.restore_latest(ema=ema, train=train)
    if restored is None:
        state = create_state(experiment.initial_state, layout)
        if begin is not None:
            params = begin(layout)  # the optimizer's state does not depend on them
            state = dataclasses.replace(state, params=params, ema_params=jax.tree.map(jnp.copy, params))
        return state, {"batches": 0}
    before, now = restored.meta.get("devices"), _devices(layout.mesh.devices.flat)
    moved = f", saved on {before}, on {now}" if before not in (None, now) else ""
    print(f"resuming from step {restored.step}{moved}", flush=True)
    trained = to_plain(with_end(restored.meta["config"]))
    say_edited(workdir, restored.step, differences(to_plain(experiment.config), trained, TRAINING_FIELDS))
    if (drawn := draws_of(restored.meta)) != randomness.VERSION:
        print(
            f"its steps were drawn by version {drawn} of the draws, those to come are by version {randomness.VERSION}: of "
            "the same distributions, but other numbers than without this stop",
            flush=True,
        )
    return joined_state(restored.ema, restored.train, shapes), restored.meta


def _devices(devices: Iterable[jax.Device]) -> str:
    """Number and kind of devices, for a person."""
    kinds, processes = [device.device_kind for device in devices], jax.process_count()
    return f"{len(kinds)} x {kinds[0]}" + (f" in {processes} processes" if processes > 1 else "")


def save_state(
    checkpoints: Checkpoints,
    step: int,
    state: TrainState,
    experiment: Experiment,
    batches: int,
    pending: Sequence[dict[str, float]] = (),
) -> None:
    """Starts to save a checkpoint.

    Args:
        checkpoints: where.
        step, state: what.
        experiment: whose config is saved too.
        batches: consumed by now.
        pending: metrics of the steps since the last log, so that the next one is what it would have been.
    """
    ema, train = split_state(state)
    devices = _devices(jax.tree.leaves(state.params)[0].sharding.device_set)
    meta = {
        "config": experiment.config,
        "batches": batches,
        "devices": devices,
        "pending": list(pending),
        "draws": randomness.VERSION,
    }
    checkpoints.save(step, ema=ema, train=train, meta=meta)


def global_batches(
    experiment: Experiment, sources: tuple[DataSource, DataSource | None], layout: Layout, consumed: int
) -> Generator[Any, None, None]:
    """Yields global batches on the devices, after those consumed; transfers run some batches ahead, as 8-bit pixels.

    Args:
        experiment: has the batch size, seed, sampling and workers.
        sources: the training data, and those at t = 0; None: these are noise, or the training data bring them along.
        layout: of the devices.
        consumed: the number of global batches to leave out, which were used before.
    """
    host = [
        train_batches(
            source,
            experiment.train.batch_size,
            seed=experiment.seed if number == 0 else failures.BASE_SEED + experiment.seed,
            consumed=consumed,
            balanced=experiment.data.sampling == "balanced" and number == 0,
            num_workers=experiment.train.num_workers,
            rows=local_rows(experiment.train.batch_size, layout),
        )
        for number, source in enumerate(sources)
        if source is not None
    ]
    ahead: collections.deque[Any] = collections.deque()
    try:
        for batch, *base in zip(*host, strict=True):
            ahead.append(to_global({**batch, **({"base": base[0]["image"]} if base else {})}, layout))
            if len(ahead) > _AHEAD:
                yield ahead.popleft()
    finally:
        for iterator in host:
            if hasattr(iterator, "close"):
                iterator.close()


def compiled_steps(experiment: Experiment, layout: Layout, state: TrainState) -> Steps:
    """Compiles the step ahead of the first batch, so that its time is known.

    Args:
        experiment: whose training step.
        layout: of the devices.
        state: one like those that the step will be given.
    """
    batch, per_call = experiment.batch_shapes(layout.batch), experiment.train.steps_per_call
    if per_call > 1 and layout.first_device.platform == "cpu":
        print(
            "config.train.steps_per_call counts on accelerators only: on CPU loops are slow, so 1 is used",
            file=sys.stderr,
        )
        per_call = 1
    start = time.perf_counter()
    one = compile_step(experiment.train_step(), layout, state, batch)
    many = compile_step(several(experiment.train_step()), layout, state, (batch,) * per_call) if per_call > 1 else None
    print(
        f"compiled the training step in {time.perf_counter() - start:.1f} s for {_devices(layout.mesh.devices.flat)}",
        flush=True,
    )
    peak, parts = peak_flops(layout.first_device), experiment.train.microbatches
    looped = parts if layout.first_device.platform != "cpu" else 1  # XLA counts a loop's body once
    return Steps(
        one=one.call,
        many=many.call if many else None,
        per_call=per_call,
        flops=one.flops and one.flops * looped,
        peak_flops=peak and peak * layout.mesh.size,
    )


def _sampler(experiment: Experiment, workdir: pathlib.Path, source: DataSource, layout: Layout) -> Any:
    """Draws a grid, or points over those of the source, from the averaged parameters, of the same noise each time."""
    classes = experiment.num_classes
    columns = classes or _UNCONDITIONAL_COLUMNS
    count = _POINTS if experiment.spec.is_points else _GRID_ROWS * columns
    labels = np.arange(count) % classes if classes else None
    units = Units.of(source.facts) if experiment.spec.is_points else None
    draw = None if units is None else PointPlots.over(source, units, workdirs.class_names(experiment, workdir))
    model = Model(experiment, None, 0, layout=layout)

    def sample(step: int, state: TrainState) -> None:
        """Writes train/samples_<step>.png; without Pillow the samples themselves, as npz."""
        current = model.with_params(replicate(state.ema_params, layout))
        try:
            images = current.generate(jax.random.key(experiment.sample.seed), labels, num_images=count)
            show(step, images)
        # A drift still too steep to solve, or a full disk, is no reason to stop training.
        except (UserError, OSError) as error:
            print(f"no samples at step {step}: {first_line(error)}", file=sys.stderr)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            print(f"no samples at step {step}: too little memory beside the training state", file=sys.stderr)

    def show(step: int, images: Any) -> None:
        path = workdir / "train" / f"samples_{step:07d}.png"
        if not plots.can_save():
            stored = {points.noun(experiment): points.stored(experiment, workdir, images)}
            files.save_arrays(path.with_suffix(".npz"), stored if labels is None else {**stored, "labels": labels})
            return
        if draw is not None:
            draw.samples(path, images, labels, f"generated, step {step}")
            return
        with files.whole_file(path) as temporary:
            figures.save_grid(temporary, images, columns=columns)

    return sample
