"""Checkpoints on disk. The only module that imports orbax.

A checkpoint of step n is a folder `<directory>/<n>` of three items: `ema` (all that evaluation needs), `train` (the rest of
the state) and `meta` (JSON: the config and the number of batches consumed). It is written beside its place, with the sums of its
files (orbax stores arrays without any), and renamed, so a run killed in the middle of a save leaves the last whole one. Whoever
reads it compares the sums: a checkpoint that differs from them counts as damaged.

Orbax counts a damaged folder as the latest step, and refuses later saves because of it. So steps are tried from the newest
back, a damaged one is set aside under another name when training goes on, and the manager is built anew before it saves.

Of several processes each writes and reads what its devices hold, all in one folder that all of them see. A step counts as whole
when every process could read it.
"""

import asyncio
import contextlib
import errno
import json
import logging
import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from scoreflow_jax import processes, sums
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.typing import PyTree

_NOT_DAMAGE = (errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE, errno.ENOSPC)
"""Errors of the machine: the same checkpoint may be whole in a moment."""

_LOOKS = 5
"""How often the checkpoints of a run are listed anew, when it deletes old ones while they are read."""

_AFTER_SUMS = frozenset({"_CHECKPOINT_METADATA", "commit_success.txt"})
"""What orbax writes last and nothing here reads."""

_LATER = frozenset({"ema_low"})
"""Names of `train` that checkpoints of earlier versions lack."""


class Restored(NamedTuple):
    """What a checkpoint held.

    Attributes:
        step: its number.
        ema: averaged parameters.
        train: the rest of the training state; None where only `ema` was asked for.
        meta: the config and the number of batches consumed.
    """

    step: int
    ema: PyTree
    train: PyTree
    meta: dict[str, Any]


def draws_of(meta: dict[str, Any]) -> int:
    """`randomness.VERSION` of when a checkpoint was saved; those of version 1 say nothing."""
    return int(meta.get("draws", 1))


class _Manager(ocp.CheckpointManager):
    """Orbax's, which leaves JAX's preemption service alone: it asks it in numbers of steps, and training in numbers of calls.

    Asked in both, the service would agree on a step that training reaches much later or never.
    """

    def reached_preemption(self, step: int) -> bool:
        """Never: the training loop saves before it stops."""
        del step
        return False


class _WithSums(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """Orbax's folder beside its place, which gets the sums of its files before it is renamed."""

    async def finalize(self) -> None:
        """Called by one process, when all have written."""
        folder = pathlib.Path(self.get())
        names = [name for name in sums.files_below(folder) if name not in _AFTER_SUMS]
        await asyncio.to_thread(sums.write_sums, folder, names)
        await super().finalize()


class Checkpoints:
    """The checkpoints of one run, for the process that trains."""

    def __init__(self, directory: pathlib.Path, *, keep: int) -> None:
        """Opens or creates the folder.

        Args:
            directory: of all checkpoints of the run.
            keep: how many to keep; older ones are deleted.
        """
        self._directory = directory.absolute()
        self._keep = keep
        self._manager = self._open()
        # Held open, so that its number is given to no other folder.
        self._held = os.open(self._directory, os.O_RDONLY) if hasattr(os, "O_DIRECTORY") else None

    def _check_there(self) -> None:
        """Orbax would make a folder anew that was moved away, and train on into it.

        Raises:
            UserError: the folder is not the one that was opened.
        """
        if self._held is not None and not _is_same(self._held, self._directory):
            raise UserError(
                f"{self._directory} was moved or deleted while training went on: nothing that was saved in it is changed. Put it "
                "back, or give its new place as --workdir, and the same command goes on from its newest checkpoint"
            )

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep, cleanup_tmp_directories=True, temporary_path_class=_WithSums
        )
        return _Manager(self._directory, item_handlers=_handlers(), options=options)

    def __enter__(self) -> "Checkpoints":
        """Closed at the end of the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for the save under way and closes. An error on its way out is not replaced by that of the save."""
        with contextlib.suppress(*(() if kind is None else (UserError,))):
            self.close()

    def save(self, step: int, *, ema: PyTree, train: PyTree, meta: dict[str, Any]) -> None:
        """Starts to save a checkpoint; the arrays may be donated at once. It raises what went wrong with the save before.

        Args:
            step: the number of training steps done, which names the checkpoint.
            ema: the averaged parameters.
            train: the rest of the training state.
            meta: what is stored as JSON: the config, the number of batches consumed, and the like.

        Raises:
            UserError: the save was refused or the one before failed, as on a full disk.
        """
        self._check_there()
        args = ocp.args.Composite(
            ema=ocp.args.StandardSave(ema), train=ocp.args.StandardSave(train), meta=ocp.args.JsonSave(meta)
        )
        try:
            with _quiet():
                saved = self._manager.save(step, args=args)
        except (OSError, ValueError) as error:
            if processes.lost_peer(error):
                raise
            raise UserError(f"could not save a checkpoint in {self._directory}: {_reason(error)}") from error
        if not saved:
            raise UserError(
                f"the checkpoint of step {step} was refused: {self._directory} already holds step "
                f"{self._manager.latest_step()}. Move that folder away or use another workdir"
            )

    def restore_latest(self, *, ema: PyTree, train: PyTree, finite: bool = True) -> Restored | None:
        """Restores the newest whole checkpoint, setting damaged ones aside; None where there is none at all.

        Args:
            ema, train: arrays or shapes with shardings, like which to restore. What checkpoints of earlier versions lack
                (`ema_low`) is then missing in what is returned.
            finite: whether numbers that are not finite are damage: training saves none.

        Raises:
            UserError: there are checkpoints, but none can be restored.
        """
        damaged = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            restored, reason = _try_restore(self._manager, step, ema, train, finite=finite)
            if restored is None:
                damaged.append((step, reason))
                continue
            self._set_aside(damaged)
            return restored
        if damaged:
            raise UserError(_all_damaged(self._directory, damaged))
        return None

    def _set_aside(self, damaged: list[tuple[int, str]]) -> None:
        if not damaged:
            return
        self._manager.close()
        if jax.process_index() == 0:
            self._rename(damaged)
        processes.wait_for_all("damaged checkpoints set aside")
        self._manager = self._open()

    def _rename(self, damaged: list[tuple[int, str]]) -> None:
        for step, reason in damaged:
            folder = self._directory / str(step)
            target = folder.with_name(f"damaged-{step}")
            number = 0
            while target.exists():
                number += 1
                target = folder.with_name(f"damaged-{step}-{number}")
            folder.rename(target)
            print(f"checkpoint {folder} is damaged ({reason}); moved to {target.name}", file=sys.stderr)

    def check(self) -> None:
        """Looks whether the save under way has failed, without waiting for it.

        Raises:
            UserError: it has.
        """
        try:
            with _quiet():
                self._manager.check_for_errors()
        except (OSError, ValueError) as error:
            if processes.lost_peer(error):
                raise
            self._check_there()
            raise UserError(f"could not save a checkpoint in {self._directory}: {_reason(error)}") from error

    @staticmethod
    def read_meta(directory: pathlib.Path, step: int) -> dict[str, Any]:
        """What was saved beside the arrays of a step.

        Raises:
            UserError: it cannot be read.
        """
        try:
            _check_sums(directory / str(step), ("meta",))
            return _checked_meta(json.loads((directory / str(step) / "meta" / "metadata").read_text()))
        except (OSError, ValueError) as error:
            raise UserError(f"the checkpoint of step {step} in {directory} is damaged ({first_line(error)})") from error

    def wait(self) -> None:
        """Waits for the save under way.

        Raises:
            UserError: that save failed.
        """
        try:
            with _quiet():
                self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            if processes.lost_peer(error):
                raise
            self._check_there()
            raise UserError(f"could not save a checkpoint in {self._directory}: {_reason(error)}") from error

    def close(self) -> None:
        """Waits for the save under way and closes.

        Raises:
            UserError: that save failed.
        """
        try:
            self.wait()
        finally:
            self._manager.close()
            if self._held is not None:
                os.close(self._held)
                self._held = None


def restore_ema(directory: pathlib.Path, *, ema: PyTree, step: int | None = None) -> Restored:
    """Restores averaged parameters for reading only: nothing on disk changes, but for what a run that trains meanwhile deletes.

    Args:
        directory: of the run's checkpoints.
        ema: arrays or shapes with shardings, like which to restore.
        step: which one; by default the newest that is whole.

    Raises:
        UserError: no such checkpoint, or all are damaged.
    """
    for _ in range(_LOOKS - 1):
        steps = checkpoint_steps(directory)
        try:
            return _restore_ema(directory, ema, step, steps)
        except (FileNotFoundError, UserError):
            if checkpoint_steps(directory) == steps:
                raise
    return _restore_ema(directory, ema, step, checkpoint_steps(directory))


def _restore_ema(directory: pathlib.Path, ema: PyTree, step: int | None, steps: list[int]) -> Restored:
    """One look at the steps that are there."""
    if not steps:
        raise UserError(f"no checkpoint in {directory}: train first (--mode=train), or give the --workdir of a run")
    if step is not None and step not in steps:
        raise UserError(f"no checkpoint of step {step} in {directory}, expected one of {', '.join(map(str, steps))}")
    with _quiet():
        options = ocp.CheckpointManagerOptions(read_only=True)
        manager = ocp.CheckpointManager(directory.absolute(), item_handlers=_handlers(), options=options)
    damaged = []
    for candidate in [step] if step is not None else reversed(steps):
        restored, reason = _try_restore(manager, candidate, ema, None)
        if restored is None:
            damaged.append((candidate, reason))
            continue
        for number, reason in damaged:
            print(f"checkpoint {number} is damaged ({reason}); using step {candidate}", file=sys.stderr)
        manager.close()
        return restored
    raise UserError(_all_damaged(directory, damaged))


def check_whole(folder: pathlib.Path) -> bool:
    """Compares all of a checkpoint's files with their sums; returns whether there are any.

    Args:
        folder: of one step.

    Raises:
        sums.Damaged: a file differs, is missing, or has no sum.
    """
    missing = [item for item in ("ema", "meta") if not (folder / item).is_dir()]
    if missing:
        raise sums.Damaged(f"{missing[0]} is missing")
    return sums.check_sums(folder, lambda name: name not in _AFTER_SUMS)


def checkpoint_steps(directory: pathlib.Path) -> list[int]:
    """The steps that have a folder, ascending, whole or not."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


def _is_same(held: int, folder: pathlib.Path) -> bool:
    """Whether a folder is still the one that was opened, and not another in its place."""
    try:
        return os.path.samestat(os.fstat(held), folder.stat())
    except OSError:
        return False


def _handlers() -> dict[str, Any]:
    return {
        "ema": ocp.StandardCheckpointHandler(),
        "train": ocp.StandardCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(),
    }


def _try_restore(
    manager: ocp.CheckpointManager, step: int, ema: PyTree, train: PyTree | None, *, finite: bool = True
) -> tuple[Restored | None, str]:
    """Restores one step; None and the reason where it is damaged for any of the processes."""
    items = ("ema", "meta") if train is None else ("ema", "train", "meta")
    folder = pathlib.Path(manager.directory) / str(step)
    # One process compares for all, and before any begins to read: orbax has them wait for each other.
    _, reason = _attempt(lambda: _check_sums(folder, items) if jax.process_index() == 0 else None)
    if reason:
        return None, reason
    restored, reason = _attempt(lambda: _restore(manager, step, ema, train))
    if restored is not None and finite:  # of all together, when all have read
        _, reason = _attempt(lambda: _check_finite({"ema": restored.ema, "train": restored.train}))
    return (None if reason else restored), reason


def _attempt(read: Callable[[], Any]) -> tuple[Any, str]:
    """What was read; None and the reason where it is damaged for any of the processes."""
    found, reason = None, ""
    try:
        found = read()
    except sums.Damaged as error:
        reason = str(error)
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error) or getattr(error, "errno", None) in _NOT_DAMAGE:
            raise
        reason = _reason(error)
    if jax.process_count() > 1:
        reasons = [(i, text) for i, text in enumerate(processes.gather_text(reason)) if text]
        if reasons:
            return None, "process {}: {}".format(*reasons[0])
    return found, reason


def _check_sums(folder: pathlib.Path, items: tuple[str, ...]) -> None:
    """Raises `sums.Damaged` where a file of these items is not the one that was written."""
    if not sums.check_sums(folder, lambda name: name.split("/")[0] in items):
        sums.say_without(folder)


def _checked_meta(meta: Any) -> dict[str, Any]:
    """Raises `sums.Damaged` where what was saved beside the arrays cannot be gone on from."""
    if not isinstance(meta, dict) or type(meta.get("batches")) is not int or not isinstance(meta.get("config"), dict):
        raise sums.Damaged("meta lacks the batches consumed or the config")
    return meta


def _restore(manager: ocp.CheckpointManager, step: int, ema: PyTree, train: PyTree | None) -> Restored:
    """Restores one step; raises UserError for arrays of other shapes and anything at all for damage."""
    with _quiet():
        _check_shapes(manager.item_metadata(step)["ema"].tree, ema, step)
        items: dict[str, Any] = {"ema": ocp.args.StandardRestore(_abstract(ema)), "meta": ocp.args.JsonRestore()}
        if train is not None:
            missing = _LATER - manager.item_metadata(step)["train"].tree.keys()
            wanted = {name: tree for name, tree in train.items() if name not in missing}
            items["train"] = ocp.args.StandardRestore(_abstract(wanted))
        found = manager.restore(step, args=ocp.args.Composite(**items))
    return Restored(step, found["ema"], found.get("train"), _checked_meta(found["meta"]))


@jax.jit
def _all_finite(leaf: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(leaf))


def _check_finite(tree: PyTree) -> None:
    """Raises `sums.Damaged` with the first array that has a number that is not finite."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    real = [(path, leaf) for path, leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    found = jax.device_get([_all_finite(leaf) for _, leaf in real])
    for (path, _), fine in zip(real, found, strict=True):
        if not fine:
            raise sums.Damaged(f"{jax.tree_util.keystr(path)} has numbers that are not finite")


def _check_shapes(stored: PyTree, expected: PyTree, step: int) -> None:
    """Names the first array that does not fit: orbax casts a wrong dtype silently and prints a dump for a wrong shape."""
    have = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(stored)}
    want = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(expected)}
    for name in sorted(have.keys() | want.keys()):
        got = (tuple(have[name].shape), str(have[name].dtype)) if name in have else "nothing"
        need = (tuple(want[name].shape), str(want[name].dtype)) if name in want else "nothing"
        if got != need:
            raise UserError(
                f"the checkpoint of step {step} does not fit the config: {name} is {got}, expected {need}. "
                "Use the config that it was trained with"
            )


def _abstract(tree: PyTree) -> PyTree:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error, 160)}"


def _all_damaged(directory: pathlib.Path, damaged: list[tuple[int, str]]) -> str:
    reasons = "; ".join(f"step {step}: {reason}" for step, reason in damaged)
    return f"no whole checkpoint in {directory} ({reasons}): restore a copy, or train anew in another workdir"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps orbax and its threads from printing tracebacks of what we report in one line."""
    silence_background_tracebacks()
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def silence_background_tracebacks() -> None:
    """Drops what a failed read or write of tensorstore leaves behind, for good.

    Its threads call back into an event loop that is closed by then; each prints a traceback through sys.unraisablehook,
    some of them long after the call has returned. Coroutines that were never awaited warn besides.
    """
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
    previous = sys.unraisablehook
    if getattr(previous, "drops_closed_loops", False):
        return

    def hook(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            previous(unraisable)

    hook.drops_closed_loops = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook
