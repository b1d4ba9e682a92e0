"""The same noise and drift solved by scipy's RK45, on which published figures of this field rest."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.base import Data, Figures, Model, Part
from scoreflow_jax.evaluation.markdown import label_note, shown, table
from scoreflow_jax.host_typing import HostState
from scoreflow_jax.settings.fields import field


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit(Part):
    """The same noise solved by scipy's RK45."""

    on: bool = field(False, "measure this part", was="audit")
    images: int = field(100, "images to generate", least=1, was="audit_images")

    smoke = {"images": 20}
    compares_features = True

    def measure(self, model: Model, data: Data, out: pathlib.Path) -> Figures:
        """Differences of images, NFE and distances to the reference between our solver and scipy's RK45 at its tolerances.

        Both see the same batches, of which each has one step control, and the drift without guidance.
        """
        import jax

        from scoreflow_jax.evaluation.samples import distances
        from scoreflow_jax.programs import Generate
        from scoreflow_jax.progress import progress

        del out
        solver = model.experiment.solver
        count = model.at_most(self.images)
        size = min(model.batch_size, count)
        noise = np.asarray(model.source_points(jax.random.key(data.seed), count))
        labels = data.labels(count)
        ours, theirs, nfe, nfe_scipy = [], [], [], []
        bar = progress("audit", count, " images")
        for first in range(0, count, size):
            z = noise[first : first + size]
            c = None if labels is None else labels[first : first + size]
            solved = model.solve(Generate(), z, c)
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
            "labels": data.label_rule,
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
            **(
                {"pixels_that_differ": float(np.mean(to_pixels(a) != to_pixels(b)))}
                if not data.experiment.spec.is_points
                else {}
            ),
        }

    @staticmethod
    def page(figures: Figures, report: Figures) -> str:
        """See `Part.page`."""
        del report
        fields = (("nfe", "NFE", ".1f"), ("frechet_distance", "Frechet distance", ".4f"), ("kid", "KID", ".5f"))
        rows = [
            [words, *(shown(figures[who][field], style) for who in ("ours", "scipy"))] for field, words, style in fields
        ]
        head = [
            f"{figures['images']} images of the same noise",
            f"ours, {figures['ours']['solver']}",
            f"scipy, {figures['scipy']['solver']}",
        ]
        head[0] += label_note(figures)
        end = (
            f"\n\nImages differ by {figures['mean_absolute_difference']:.1e} in the mean and "
            f"{figures['max_absolute_difference']:.1e} at most"
            + (
                f"; {figures['pixels_that_differ']:.2%} of their 8-bit pixels differ."
                if "pixels_that_differ" in figures
                else "."
            )
        )
        return "## Against scipy\n\n" + table(head, rows) + end


def _scipy(model: Model, noise: HostState, labels: Any) -> tuple[HostState, int]:
    """Images and evaluations of scipy's RK45; the drift is the compiled one, called from the host."""
    import scipy.integrate

    solver, path = model.experiment.solver, model.experiment.path

    def flow(t: float, y: np.ndarray) -> np.ndarray:
        return np.asarray(model.drift(y.reshape(noise.shape), t, labels), np.float64).ravel()

    span = (path.t_min, path.t_max)
    solution = scipy.integrate.solve_ivp(flow, span, noise.ravel(), method="RK45", rtol=solver.rtol, atol=solver.atol)
    if not solution.success:
        raise UserError(
            f"scipy could not solve the drift: {solution.message} Train longer, or set config.eval.audit.on=False"
        )
    return solution.y[:, -1].reshape(noise.shape).astype(np.float32), int(solution.nfev)
