"""--mode=train: trains, or goes on from the newest checkpoint of the workdir."""

import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scoreflow_jax import figures, writers
from scoreflow_jax.checkpoints import Checkpoints
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.data import ImageSource
from scoreflow_jax.data.pipeline import check_batch_size as check_epoch
from scoreflow_jax.data.pipeline import train_batches
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.model import Model
from scoreflow_jax.parallel import Layout, check_batch_size, make_layout, to_global
from scoreflow_jax.training import TrainState, compile_step, create_state, run, state_shapes

_GRID_ROWS = 4  # of the pictures drawn while training, one column a class
_UNCONDITIONAL_COLUMNS = 8


def run_command(experiment: Experiment, workdir: pathlib.Path) -> None:
    """Trains to config.train.num_steps, writing all to the workdir."""
    layout = make_layout()
    check_batch_size(experiment.train.batch_size, layout)
    source = experiment.source("train")  # before the workdir: data that are not there leave nothing behind
    check_epoch(experiment.train.batch_size, len(source))
    workdirs.claim(experiment, workdir)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=experiment.train.keep_checkpoints)
    try:
        _train(experiment, workdir, source, layout, checkpoints)
    finally:
        checkpoints.close()


def _train(
    experiment: Experiment, workdir: pathlib.Path, source: ImageSource, layout: Layout, checkpoints: Checkpoints
) -> None:
    state = _start(experiment, layout, checkpoints)
    first = int(state.step)
    overview = writers.parameter_overview(state.params)
    (workdir / "parameters.txt").write_text(overview + "\n")
    print(overview.splitlines()[-1] + f"; all by name in {workdir / 'parameters.txt'}", flush=True)
    if first >= experiment.schedule.num_steps:
        print(f"already trained to step {first}: raise --config.train.num_steps to go on, or give another --workdir")
        return
    batches = _batches(experiment, source, layout, consumed=first)
    step = _compiled(experiment, layout, state, next(_batches(experiment, source, layout, consumed=first)))
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
            save=lambda n, s: _save(checkpoints, n, s, experiment),
            sample=_sampler(experiment, workdir),
        )
    finally:
        writer.close()
        if hasattr(batches, "close"):
            batches.close()
    seconds = time.perf_counter() - start
    print(f"trained steps {first} to {experiment.schedule.num_steps} in {seconds:.0f} s; see {workdir / 'train'}")


def _start(experiment: Experiment, layout: Layout, checkpoints: Checkpoints) -> TrainState:
    """The state to go on from: the newest whole checkpoint's, else that of step 0."""
    ema, train = split_state(state_shapes(experiment.initial_state, layout))
    restored = checkpoints.restore_latest(ema=ema, train=train)
    if restored is None:
        return create_state(experiment.initial_state, layout)
    print(f"resuming from step {restored.step}", flush=True)
    return TrainState(ema_params=restored.ema, **restored.train)


def split_state(state: TrainState) -> tuple[Any, dict[str, Any]]:
    """The averaged parameters, and the rest by name: the two items of a checkpoint."""
    rest = {name: getattr(state, name) for name in ("step", "params", "opt_state", "key")}
    return state.ema_params, rest


def _save(checkpoints: Checkpoints, step: int, state: TrainState, experiment: Experiment) -> None:
    ema, train = split_state(state)
    checkpoints.save(step, ema=ema, train=train, meta={"config": experiment.config, "batches": step})


def _batches(experiment: Experiment, source: ImageSource, layout: Layout, consumed: int) -> Iterator[Any]:
    """Global batches; as many are consumed as steps are done."""
    host = train_batches(
        source,
        experiment.train.batch_size,
        seed=experiment.seed,
        consumed=consumed,
        num_workers=experiment.train.num_workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    try:
        for batch in host:
            yield to_global(batch, layout)
    finally:
        if hasattr(host, "close"):
            host.close()


def _compiled(experiment: Experiment, layout: Layout, state: TrainState, batch: Any) -> Any:
    """Compiles the step ahead of the first batch, so that its time is known."""
    start = time.perf_counter()
    compiled = compile_step(experiment.train_step(), layout, state, batch)
    print(f"compiled the training step in {time.perf_counter() - start:.1f} s", flush=True)
    return compiled


def _sampler(experiment: Experiment, workdir: pathlib.Path) -> Any:
    """Draws a grid from the averaged parameters, of the same noise each time."""
    classes = experiment.num_classes
    columns = classes or _UNCONDITIONAL_COLUMNS
    labels = np.arange(_GRID_ROWS * columns) % classes if classes else None
    model = Model(experiment, None, 0)

    def sample(step: int, state: TrainState) -> None:
        """Writes train/samples_<step>.png."""
        model.params = jax.tree.map(jnp.asarray, state.ema_params)
        images = model.generate(jax.random.key(experiment.sample.seed), labels, num_images=_GRID_ROWS * columns)
        path = workdir / "train" / f"samples_{step:07d}.png"
        with workdirs.whole_file(path) as temporary:
            figures.save_grid(temporary, images, columns=columns)

    return sample
