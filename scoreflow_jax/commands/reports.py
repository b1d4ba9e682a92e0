"""What the reports of all modes share: the folder, what they begin with, and lines for the terminal."""

import contextlib
import dataclasses
import os
import pathlib
import platform
import time
from importlib import metadata
from typing import Any

import jax

from scoreflow_jax import files, randomness, sums
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.model import Model
from scoreflow_jax.plain_config import config_hash
from scoreflow_jax.published import outputs_of
from scoreflow_jax.sampling import SolveStats
from scoreflow_jax.user_paths import user_path, writable_folder

_PACKAGES = ("scoreflow_jax", "jax", "jaxlib", "flax", "diffrax", "optax", "numpy", "scikit-learn")


def out_folder(mode: str, workdir: pathlib.Path, name: str, given: str | None) -> pathlib.Path:
    """Returns the folder that a mode writes to, found to be writable before it computes.

    Args:
        mode: of the command line.
        workdir: of the run, or the folder of a published model, which is only read: then a folder below runs/, and it is said.
        name: of the mode's folder in it.
        given: by --out, in its place.

    Raises:
        UserError: it cannot be written, or holds the report of another mode, over which this one's would be written.
    """
    home = outputs_of(workdir)
    folder = home / name if given is None else user_path(given)
    if given is None and home != workdir:
        print(f"{workdir.name} is a published model, which is only read: what is made of it goes to {folder}")
    report = folder / "report.json"
    if given is not None and report.exists() and _mode_of(report) != mode:
        raise UserError(f"{report} is not of --mode={mode}, which would write over it: give --out another folder")
    return writable_folder(folder, "--out") if files.writing() else folder


def _mode_of(report: pathlib.Path) -> str | None:
    """The mode that a report is of; None where it is none of ours."""
    try:
        return sums.read_object(report)[0].get("mode")
    except sums.Damaged:
        return None


def report_head(model: Model, mode: str, *, seed: int | None, by_sampler: bool = False) -> dict[str, Any]:
    """What every report begins with: enough to make the same again.

    Args:
        model: that the report is of.
        mode: of the command line.
        seed: of what was drawn; None where there are several, or none.
        by_sampler: whether config.sampler had its part in it; else all of it is the ODE's.
    """
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
            **({"between": list(e.solver.between)} if e.solver.between else {}),
            **({"grid": e.solver.grid} if e.solver.num_steps is not None else {}),
            **({"preset": e.solver.preset} if e.solver.preset is not None else {}),
            "step_control": "per sample" if e.solver.per_sample else "one for the batch, scipy's rule",
            "dtype": e.solver.dtype,
            "matmul_precision": e.solver.precision,
        },
        "sampler": _sampler(e) if by_sampler else {"name": "ode"},
        "rounding": e.scaling.rounding,
        **environment(),
    }


def _sampler(experiment: Experiment) -> dict[str, Any]:
    """The sampler's fields; of the ODE its last step, where it takes one."""
    sampler, path = experiment.sampler, experiment.path
    if not sampler.is_ode:
        return dataclasses.asdict(sampler)
    return {"name": "ode", **({"denoise": True} if sampler.denoises(path) else {})}


def environment() -> dict[str, Any]:
    """Software, hardware and date."""
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "draws": randomness.VERSION,
        "host": f"{platform.machine()}, {os.cpu_count()} processors",
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}, {jax.process_count()} process(es)",
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


def seen(*pictures: pathlib.Path) -> str:
    """What to look at: those of the pictures that are there, or their folder on a machine that draws none."""
    return " and ".join(str(path) for path in pictures if path.exists()) or str(pictures[0].parent)


def cost_line(stats: SolveStats, network_calls: int = 1) -> str:
    """One line on what a solve cost, for the terminal."""
    s = stats.summary(network_calls)
    times = f"{s['seconds']:.1f} s after {s['compile_seconds']:.1f} s of compilation"
    return f"NFE {s['nfe_mean']:.0f}, {s['images_per_second']:.1f} images/s, {times}"
