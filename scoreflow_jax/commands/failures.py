"""A training step that was not finite: what is kept of it, and --mode=diagnose, which repeats it and says what is wrong."""

import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from scoreflow_jax import files, models, processes, randomness, sums
from scoreflow_jax.checkpoints import Checkpoints, checkpoint_steps, draws_of
from scoreflow_jax.commands.teacher import open_teacher, with_teacher
from scoreflow_jax.data import DataSource
from scoreflow_jax.data.pipeline import batch_indices
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.experiment import Experiment, build
from scoreflow_jax.parallel import Layout, make_layout, shard
from scoreflow_jax.plain_config import read_config
from scoreflow_jax.training import (
    Record,
    TrainState,
    joined_state,
    per_example,
    split_state,
    state_shapes,
    value_and_grad,
)

BASE_SEED = 2**32
"""Added to the seed for the order of the data at t = 0, which are drawn independently."""

_SIZES = ("parameter", "gradient", "update")  # before the step, and of it; an update may overflow by itself
_SHOWN = 8  # examples and arrays named on the terminal; the file names all


def dump(
    experiment: Experiment,
    workdir: pathlib.Path,
    sources: tuple[DataSource, DataSource | None],
    step: int,
    state: TrainState,
    record: Record,
    batch: int,
) -> str:
    """Keeps a step that was not finite: the state before it, its examples and their indices.

    Args:
        experiment: being trained.
        workdir: gets a folder failure-<number>.
        sources: the data, and those at t = 0 where they are no noise.
        step: steps done before it.
        state: before it.
        record: its metrics.
        batch: number of its batch in the stream.

    Returns:
        A sentence that says where, or why not.
    """
    # One name for all processes, which save together: that which the first one finds free.
    folder = workdir / processes.gather_text(_free(workdir / f"failure-{step + 1}").name)[0]
    try:
        indices, examples = _examples(experiment, sources, batch)
        files.save_arrays(folder / "examples.npz", examples)
        ema, rest = split_state(state)
        checkpoints = Checkpoints(folder / "state", keep=1)
        try:
            meta = {"config": experiment.config, "batches": batch, "draws": randomness.VERSION}
            checkpoints.save(step, ema=ema, train=rest, meta=meta)
        finally:
            checkpoints.close()
        about = {
            "step": step + 1,
            "metrics": {name: str(value) for name, value in record.items()},
            "batch": batch,
            "indices": indices,
            "config_hash": experiment.config_hash,
        }
        files.write_json(folder / "report.json", about)
    except (OSError, UserError) as error:
        return f"The step could not be kept in {folder} ({first_line(error)})."
    return f"{folder} holds the state before it and its examples; --mode=diagnose --workdir={workdir} repeats it."


def _examples(
    experiment: Experiment, sources: tuple[DataSource, DataSource | None], batch: int
) -> tuple[dict[str, list[int]], dict[str, np.ndarray]]:
    """Indices and examples of a whole batch, read anew."""
    size, indices, arrays = experiment.train.batch_size, {}, {}
    for name, source, seed in zip(("image", "base"), sources, (0, BASE_SEED), strict=True):
        if source is None:
            continue
        balanced = name == "image" and experiment.data.sampling == "balanced"
        chosen = batch_indices(source, size, batch, seed=experiment.seed + seed, balanced=balanced)
        examples = source.read(chosen)
        indices[name], arrays[name] = chosen.tolist(), np.asarray(examples["image"])
        arrays.setdefault("label", np.asarray(examples["label"]))
        if "base" in examples:  # a pair of reflow
            arrays["base"] = np.asarray(examples["base"])
    return indices, arrays


def _free(folder: pathlib.Path) -> pathlib.Path:
    number, target = 0, folder
    while target.exists():
        number += 1
        target = folder.with_name(f"{folder.name}-{number}")
    return target


def run_command(workdir: pathlib.Path) -> None:
    """Repeats the newest kept step of the workdir: which examples' losses and which arrays' gradients are not finite.

    Raises:
        UserError: no failure was kept there.
    """
    read_config(workdir)
    kept = sorted(workdir.glob("failure-*/report.json"), key=lambda path: path.stat().st_mtime)
    if not kept:
        raise UserError(
            f"{workdir} holds no failure-* folder with a report: nothing went wrong there that was kept whole"
        )
    folder = kept[-1].parent
    experiment, state = _restore(folder)
    batch = read_examples(folder)
    found = _repeat(experiment, state, batch)
    if experiment.config["model"]["dtype"] != "float32":
        exact = experiment.with_network(models.computing_in("float32", experiment.network))
        found["loss_in_float32"] = _repeat(exact, state, batch)["loss"]
    files.write_json(folder / "diagnosis.json", found)
    for line in _lines(found, int(state.step) + 1):
        print(line)
    print(f"all of it is in {folder / 'diagnosis.json'}")


def read_examples(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The examples of a kept step, by name.

    Raises:
        UserError: they are not there, or damaged.
    """
    try:
        return sums.read_arrays(folder / "examples.npz")
    except (OSError, sums.Damaged) as error:
        raise UserError(f"the examples of that step cannot be read ({first_line(error)}): restore that file") from error


def _restore(folder: pathlib.Path) -> tuple[Experiment, TrainState]:
    steps = checkpoint_steps(folder / "state")
    if not steps:
        raise UserError(f"{folder} holds no state: it was not written to its end")
    meta = Checkpoints.read_meta(folder / "state", steps[-1])
    if (drawn := draws_of(meta)) != randomness.VERSION:
        raise UserError(
            f"{folder} was drawn by version {drawn} of the draws, which this version of scoreflow_jax "
            f"(draws {randomness.VERSION}) cannot repeat: use the one that wrote it"
        )
    if "teacher" in meta["config"]["objective"]:  # which may lie elsewhere since, as the run's config says
        meta["config"]["objective"]["teacher"] = read_config(folder.parent)["objective"].get("teacher")
    experiment = build(meta["config"])
    layout = _layout(experiment)
    experiment, taught_by = open_teacher(experiment, layout)
    shapes = state_shapes(experiment.initial_state, layout)
    checkpoints = Checkpoints(folder / "state", keep=1)
    ema, rest = split_state(shapes)
    try:
        restored = checkpoints.restore_latest(ema=ema, train=rest, finite=False)
    finally:
        checkpoints.close()
    assert restored is not None
    state = joined_state(restored.ema, restored.train, shapes)
    return experiment, state if taught_by is None else with_teacher(state, taught_by, layout)


def _layout(experiment: Experiment) -> Layout:
    """A layout of as many devices as divide the batch."""
    devices, train = jax.devices(), experiment.train
    count = math.gcd(train.batch_size // train.microbatches, len(devices))
    return make_layout(devices[:count], fsdp=math.gcd(train.fsdp, count))


def _repeat(experiment: Experiment, state: TrainState, batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """Loss and gradient of the kept step, part by part."""
    loss, layout, parts = experiment.train_loss(), _layout(experiment), experiment.train.microbatches

    def look(state: TrainState, batch: Any) -> Any:
        drawn = loss.draw(jax.random.fold_in(state.key, state.step), batch)
        gradient = value_and_grad(loss.of(state), state.params, drawn, parts, jax.default_backend() == "cpu")[1]
        losses = per_example(loss.of(state), state.params, drawn, parts)
        largest = lambda tree: jax.tree.map(lambda x: jnp.max(jnp.abs(x)), tree)  # noqa: E731
        updates, _ = experiment.optimizer.update(gradient, state.opt_state, state.params)
        norms = {"grad_norm": gradient, "param_norm": optax.apply_updates(state.params, updates)}
        sizes = map(largest, (state.params, gradient, updates))
        return losses, drawn.t, {name: optax.tree.norm(tree) for name, tree in norms.items()}, *sizes

    placed = shard({name: batch[name] for name in ("image", "label", "base") if name in batch}, layout)
    result = jax.jit(look, out_shardings=layout.replicated)(state, placed)
    losses, t, norms, *sizes = jax.device_get(result)
    wrong = np.flatnonzero(~np.isfinite(losses))
    return {
        "loss": str(np.mean(losses)),
        **{name: str(value) for name, value in norms.items()},
        "examples": len(losses),
        "examples_not_finite": [{"row": int(i), "t": float(t[i]), "loss": str(losses[i])} for i in wrong],
        "largest_loss": {"row": int(np.argmax(losses)), "t": float(t[np.argmax(losses)]), "loss": str(np.max(losses))},
        **{f"largest_{what}": _by_name(tree) for what, tree in zip(_SIZES, sizes, strict=True)},
        "pixels_not_finite": int(np.sum(~np.isfinite(np.asarray(batch["image"], np.float64)))),
    }


def _by_name(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): str(value) for path, value in leaves}


def _lines(found: dict[str, Any], step: int) -> list[str]:
    """What the terminal says of it."""
    wrong, count = found["examples_not_finite"], found["examples"]
    rows = ", ".join(str(e["row"]) for e in wrong[:_SHOWN]) + (" ..." if len(wrong) > _SHOWN else "")
    largest = found["largest_loss"]
    lines = [
        f"step {step} repeated: loss {found['loss']}, grad_norm {found['grad_norm']}, param_norm {found['param_norm']} after it",
        f"loss not finite in {len(wrong)} of {count} examples" + (f": rows {rows} of examples.npz" if wrong else ""),
        f"largest loss {largest['loss']} in row {largest['row']} at t = {largest['t']:.4f}",
    ]
    for what in _SIZES:
        sizes = found[f"largest_{what}"]
        bad = [name for name, size in sizes.items() if not np.isfinite(float(size))]
        top = max(sizes, key=lambda name: np.nan_to_num(float(sizes[name]), nan=np.inf))
        named = f": {', '.join(bad[:_SHOWN])}" if bad else f"; the largest, {sizes[top]}, in {top}"
        lines.append(f"{what}s not finite in {len(bad)} of {len(sizes)} arrays{named}")
    if "loss_in_float32" in found:
        lines.append(f"the same step computed in float32: loss {found['loss_in_float32']}")
    return lines
