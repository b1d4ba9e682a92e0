"""The same noise and drift solved by scipy's RK45, on which published figures of this field rest."""

from typing import Any

import jax
import numpy as np
import scipy.integrate

from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.generation import distances
from scoreflow_jax.model import Model
from scoreflow_jax.progress import progress
from scoreflow_jax.typing import HostState


def measure_audit(model: Model, data: Data) -> dict[str, Any]:
    """Differences of images, NFE and distances to the reference between our solver and scipy's RK45 at its tolerances.

    Both see the same batches, of which each has one step control, and the drift without guidance.
    """
    settings, solver = data.settings, model.experiment.solver
    count = model.at_most(settings.audit_images)
    size = min(model.batch_size, count)
    noise = np.asarray(model.source_points(jax.random.key(settings.seeds[0]), count))
    labels = data.labels(count)
    ours, theirs, nfe, nfe_scipy = [], [], [], []
    bar = progress("audit", count, " images")
    for first in range(0, count, size):
        z = noise[first : first + size]
        c = None if labels is None else labels[first : first + size]
        solved = model.solve_generate(z, c)
        images, evaluations = _scipy(model, z, c)
        ours.append(solved.y)
        theirs.append(images)
        nfe.append(solved.stats.evaluations[0])
        nfe_scipy.append(evaluations)
        bar.update(len(z))
    bar.close()
    a, b = np.concatenate(ours), np.concatenate(theirs)
    to_pixels = data.experiment.scaling.to_pixels
    compared = {
        name: distances(data.extractor(to_pixels(x)), data.reference, data.extractor)
        for name, x in (("ours", a), ("scipy", b))
    }
    return {
        "images": count,
        "guidance": 1.0,
        "labels": data.labels_told,
        "ours": {
            "solver": solver.method if solver.num_steps is None else f"{solver.method}, {solver.num_steps} steps",
            "nfe": float(np.mean(nfe)),
            **compared["ours"],
        },
        "scipy": {
            "solver": f"RK45, rtol {solver.rtol:g}, atol {solver.atol:g}",
            "nfe": float(np.mean(nfe_scipy)),
            **compared["scipy"],
        },
        "mean_absolute_difference": float(np.abs(a - b).mean()),
        "max_absolute_difference": float(np.abs(a - b).max()),
        **({"pixels_that_differ": float(np.mean(to_pixels(a) != to_pixels(b)))} if data.experiment.spec.levels else {}),
    }


def _scipy(model: Model, noise: HostState, labels: Any) -> tuple[HostState, int]:
    """Images and evaluations of scipy's RK45; the drift is the compiled one, called from the host."""
    solver, path = model.experiment.solver, model.experiment.path

    def flow(t: float, y: np.ndarray) -> np.ndarray:
        return np.asarray(model.drift(y.reshape(noise.shape), t, labels), np.float64).ravel()

    span = (path.t_min, path.t_max)
    solution = scipy.integrate.solve_ivp(flow, span, noise.ravel(), method="RK45", rtol=solver.rtol, atol=solver.atol)
    if not solution.success:
        raise UserError(
            f"scipy could not solve the drift: {solution.message} Train longer, or set config.eval.audit=False"
        )
    return solution.y[:, -1].reshape(noise.shape).astype(np.float32), int(solution.nfev)
