"""The folder of a run: whose config it holds, and what every report of it begins with."""

import contextlib
import importlib.util
import os
import pathlib
import platform
import time
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import jax

from scoreflow_jax.checkpoints import checkpoint_steps
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.experiment import (
    MODEL_FIELDS,
    TRAINING_FIELDS,
    TRAINING_ONLY,
    Experiment,
    config_hash,
    differences,
    to_plain,
)
from scoreflow_jax.model import Model, load_model, read_config
from scoreflow_jax.sampling import SolveStats

_PACKAGES = ("scoreflow_jax", "jax", "jaxlib", "flax", "diffrax", "optax", "numpy", "scikit-learn")


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


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Makes the workdir and keeps it to this process: two trainings in one would delete each other's checkpoints.

    Raises:
        UserError: another process trains there, or it cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write to {workdir} ({first_line(error)}): give another --workdir") from error
    with file:
        if importlib.util.find_spec("fcntl") is not None:  # not on Windows
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"another process trains in {workdir}: wait for it, stop it, or give another --workdir"
                ) from None
        yield


def open_model(experiment: Experiment, workdir: pathlib.Path, *, batch_size: int) -> Model:
    """Loads the run's averaged parameters, after checking that the config describes the same network.

    Raises:
        UserError: no run there, one of another network, or no whole checkpoint.
    """
    read_config(workdir)
    _check_same(experiment, workdir, MODEL_FIELDS, "give the config of that run", TRAINING_ONLY)
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


def report_head(model: Model, mode: str, *, seed: int | None) -> dict[str, Any]:
    """What every report begins with: enough to make the same again."""
    e = model.experiment
    return {
        "mode": mode,
        "name": e.name,
        "step": model.step,
        "parameters": "ema",
        "parameters_sha256": model.fingerprint,
        "ema_decay": model.trained_config["train"]["ema_decay"],
        "trained_config_hash": config_hash(model.trained_config),
        "config_hash": e.config_hash,
        "seed": seed,
        "solver": {
            "method": e.solver.method,
            "steps": "adaptive" if e.solver.num_steps is None else e.solver.num_steps,
            "rtol": e.solver.rtol,
            "atol": e.solver.atol,
            "step_control": "per sample" if e.solver.per_sample else "one for the batch, scipy's rule",
            "dtype": "float32",
            "matmul_precision": e.solver.precision,
        },
        "rounding": e.scaling.rounding,
        **environment(),
    }


def environment() -> dict[str, Any]:
    """Software, hardware and date."""
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "host": f"{platform.machine()}, {os.cpu_count()} processors",
        "device": f"1 of {jax.device_count()} x {jax.devices()[0].device_kind}",
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    if "scoreflow_jax" not in found:
        from scoreflow_jax import __version__

        found["scoreflow_jax"] = __version__
    return found


def cost_line(stats: SolveStats, network_calls: int = 1) -> str:
    """One line on what a solve cost, for the terminal."""
    s = stats.summary(network_calls)
    times = f"{s['seconds']:.1f} s after {s['compile_seconds']:.1f} s of compilation"
    return f"NFE {s['nfe_mean']:.0f}, {s['images_per_second']:.1f} images/s, {times}"
