"""--mode=train: trains, or goes on from the newest checkpoint of the workdir."""

import collections
import pathlib
import sys
import time
from collections.abc import Generator
from typing import Any

import jax
import numpy as np

from scoreflow_jax import figures, files, plots, writers
from scoreflow_jax.checkpoints import Checkpoints
from scoreflow_jax.commands import points
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.data import DataSource, Units
from scoreflow_jax.data.pipeline import check_epoch_holds_batch, check_workers, train_batches
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.point_plots import PointPlots
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.model import Model
from scoreflow_jax.parallel import Layout, check_batch_size, make_layout, to_global
from scoreflow_jax.training import TrainState, compile_step, create_state, run, state_shapes

_AHEAD = 2  # batches on their way to the devices
_BASE_SEED = 2**32  # added to the seed for the data at t = 0, which are drawn independently
_GRID_ROWS = 4  # of the pictures drawn while training, one column a class
_UNCONDITIONAL_COLUMNS = 8
_POINTS = 1000  # drawn while training on a table


def run_command(experiment: Experiment, workdir: pathlib.Path) -> None:
    """Trains to config.train.num_steps, writing all to the workdir. What can be refused is refused before it is touched."""
    layout = make_layout()
    check_batch_size(experiment.train.batch_size, layout)
    check_workers(experiment.train.num_workers)
    experiment.check_trainable()
    workdirs.check_may_train(experiment, workdir)
    source = experiment.source("train")
    base = experiment.base_source("train") if experiment.data.base else None
    for each in (source, base):
        if each is not None:
            check_epoch_holds_batch(experiment.train.batch_size, len(each))
    workdirs.check_same_data(source, base, workdir)
    with workdirs.locked(workdir):
        checkpoints = Checkpoints(workdir / "checkpoints", keep=experiment.train.keep_checkpoints)
        try:
            _train(experiment, workdir, (source, base), layout, checkpoints)
        finally:
            checkpoints.close()


def _train(
    experiment: Experiment,
    workdir: pathlib.Path,
    sources: tuple[DataSource, DataSource | None],
    layout: Layout,
    checkpoints: Checkpoints,
) -> None:
    state, consumed = _start(experiment, layout, checkpoints)
    first = int(state.step)
    if first >= experiment.schedule.num_steps:
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
    step = _compiled(experiment, layout, state)
    batches = _batches(experiment, sources, layout, consumed)
    writer = writers.open_writers(workdir, first_step=first, tensorboard=experiment.train.tensorboard)
    start = time.perf_counter()
    try:
        run(
            state,
            step,
            batches,
            experiment.schedule,
            batch_size=experiment.train.batch_size,
            writer=writer,
            save=lambda n, s: save_state(checkpoints, n, s, experiment, consumed + n - first),
            sample=_sampler(experiment, workdir, sources[0]),
        )
    finally:
        writer.close()
        batches.close()
    seconds = time.perf_counter() - start
    print(f"trained steps {first} to {experiment.schedule.num_steps} in {seconds:.0f} s; see {workdir / 'train'}")


def _start(experiment: Experiment, layout: Layout, checkpoints: Checkpoints) -> tuple[TrainState, int]:
    """The state to go on from and the batches it has consumed: the newest whole checkpoint's, else those of step 0."""
    ema, train = split_state(state_shapes(experiment.initial_state, layout))
    restored = checkpoints.restore_latest(ema=ema, train=train)
    if restored is None:
        return create_state(experiment.initial_state, layout), 0
    print(f"resuming from step {restored.step}", flush=True)
    return TrainState(ema_params=restored.ema, **restored.train), restored.meta["batches"]


def split_state(state: TrainState) -> tuple[Any, dict[str, Any]]:
    """The averaged parameters, and the rest by name: the two items of a checkpoint."""
    rest = {name: getattr(state, name) for name in ("step", "params", "opt_state", "key")}
    return state.ema_params, rest


def save_state(checkpoints: Checkpoints, step: int, state: TrainState, experiment: Experiment, batches: int) -> None:
    """Starts to save a checkpoint, with the config and the number of batches consumed."""
    ema, train = split_state(state)
    checkpoints.save(step, ema=ema, train=train, meta={"config": experiment.config, "batches": batches})


def _batches(
    experiment: Experiment, sources: tuple[DataSource, DataSource | None], layout: Layout, consumed: int
) -> Generator[Any, None, None]:
    """Global batches on the devices, after those consumed; transfers run some batches ahead, as 8-bit pixels."""
    host = [
        train_batches(
            source,
            experiment.train.batch_size,
            seed=experiment.seed if number == 0 else _BASE_SEED + experiment.seed,
            consumed=consumed,
            balanced=experiment.data.sampling == "balanced" and number == 0,
            num_workers=experiment.train.num_workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
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


def _compiled(experiment: Experiment, layout: Layout, state: TrainState) -> Any:
    """Compiles the step ahead of the first batch, so that its time is known."""
    batch = experiment.batch_shapes(layout.batch)
    start = time.perf_counter()
    compiled = compile_step(experiment.train_step(), layout, state, batch)
    print(f"compiled the training step in {time.perf_counter() - start:.1f} s", flush=True)
    return compiled


def _sampler(experiment: Experiment, workdir: pathlib.Path, source: DataSource) -> Any:
    """Draws a grid, or points over those of the source, from the averaged parameters, of the same noise each time."""
    classes = experiment.num_classes
    columns = classes or _UNCONDITIONAL_COLUMNS
    count = _GRID_ROWS * columns if experiment.spec.levels else _POINTS
    labels = np.arange(count) % classes if classes else None
    units = None if experiment.spec.levels else Units.of(source.facts)
    draw = None if units is None else PointPlots.over(source, units, workdirs.class_names(experiment, workdir))
    model = Model(experiment, None, 0)

    def sample(step: int, state: TrainState) -> None:
        """Writes train/samples_<step>.png; without Pillow the samples themselves, as npz."""
        model.params = jax.device_put(state.ema_params, jax.devices()[0])
        try:
            images = model.generate(jax.random.key(experiment.sample.seed), labels, num_images=count)
        except UserError as error:  # a drift that is still too steep to solve is no reason to stop training it
            print(f"no samples at step {step}: {error}", file=sys.stderr)
            return
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
