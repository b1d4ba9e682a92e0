"""How far the learned drift is from what ScoreFlow says that it is, the scaled difference of scores of its eq. 7,

    g(x, t, c) = sigma' sigma grad log(p_2 / p_1) = sigma_t^2 (score_2 - score_1),    sigma_t = sigma_0 e^t,

p_1 the source N(0, I) and p_2 the data of class c, both smoothed by N(0, sigma_t^2 I). The scores of p_2 are those of the
training examples smoothed by the kernel, exact for that data set; score_1 = -x / (1 + sigma_t^2). Both fields are taken at points
x_t of the path, from held-out examples.

The control is the drift that is exact on the path for the training examples as data, E[dx_t/dt | x_t], from the same kernel
weights: how far a learned drift is from *that* says what the examples being few does.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from scoreflow_jax import files
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.base import Data, Experiment, Figures, Model, Part
from scoreflow_jax.evaluation.markdown import table
from scoreflow_jax.host_typing import HostState
from scoreflow_jax.settings.fields import field

TIMES = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)
CONTROL = "exact drift of the training data"

Fields = dict[str, list[HostState]]
Known = Float[np.ndarray, "known ..."]
Labels = Int[np.ndarray, " batch"]
Classes = Int[np.ndarray, " known"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreDifference(Part):
    """The learned drift against eq. 7's difference of scores, for several sigma_0."""

    on: bool = field(False, "measure this part", was="score_difference")
    images: int = field(364, "test images", least=1, was="score_difference_images")
    sigmas: tuple[float, ...] = field(
        (0.1, 0.3, 1.0, 3.0), "values of sigma_0 in eq. 7", above=0, was="score_difference_sigmas"
    )

    of_densities = True

    def check(self, experiment: Experiment) -> None:
        """Refuses a path that does not start from N(0, I)."""
        from scoreflow_jax.paths import AffinePath

        path = experiment.path
        if not (isinstance(path, AffinePath) and path.gaussian_source and path.prior_scale == 1.0):
            raise UserError(
                "config.eval.score_difference compares with eq. 7 from N(0, I), which this path does not start from: set its "
                "`on` to False"
            )

    def measure(self, model: Model, data: Data, out: pathlib.Path) -> Figures:
        """Cosine and relative square errors of g against f along t, for every sigma_0; draws score_difference.png."""
        import jax
        import jax.numpy as jnp

        from scoreflow_jax import plots
        from scoreflow_jax.evaluation.drifts import drift_in_batches

        path = model.experiment.drift(jax.device_get(model.params)).path
        images, labels = data.images("test", data.some(self.images))
        known, classes = data.images("train")
        if not model.num_classes:
            labels, classes = np.zeros_like(labels), np.zeros_like(classes)
        chosen = labels if model.num_classes else None
        x0 = np.asarray(model.source_points(jax.random.key(data.seed), len(images)))
        names = {f"sigma_0 = {s:g}": s for s in self.sigmas}
        fields: Fields = {name: [] for name in (*names, CONTROL)}
        learned = []
        for t in TIMES:
            x_t = np.asarray(path.interpolant(jnp.full(len(x0), t, jnp.float32), jnp.asarray(x0), jnp.asarray(images)))
            learned.append(drift_in_batches(model, x_t, t, chosen))
            for name, start in names.items():
                fields[name].append(difference_of_scores(x_t, labels, known, classes, start * float(np.exp(t))))
            fields[CONTROL].append(_exact_drift(path, x_t, t, labels, known, classes))
        rows = {name: [_compared(g, f) for g, f in zip(field, learned, strict=True)] for name, field in fields.items()}
        curves = [plots.Curve(n, TIMES, [r["cosine"] for r in row], dashed=n == CONTROL) for n, row in rows.items()]
        title = f"{model.experiment.name}: the learned drift against sigma' sigma grad log(p2 / p1)"
        with files.whole_file(out / "score_difference.png") as temporary:
            plots.save_curves(temporary, curves, plots.Axes(title, "t", "cosine with the learned drift"))
        return {"images": len(images), "times": list(TIMES), "rows": rows}

    @staticmethod
    def page(figures: Figures, report: Figures) -> str:
        """See `Part.page`."""
        del report
        shown = range(1, len(figures["times"]), 2)
        rows = []
        for name, row in figures["rows"].items():
            middle = row[len(row) // 2]
            cosines = [f"{row[i]['cosine']:.2f}" for i in shown]
            rows.append([name, *cosines, f"{middle['relative_error']:.2f}", f"{middle['error_at_best_factor']:.2f}"])
        half = figures["times"][len(figures["times"]) // 2]
        head = [
            f"{figures['images']} held-out images: cosine with the learned drift at t =",
            *(f"{figures['times'][i]:g}" for i in shown),
        ]
        head += [f"square error at t = {half:g}, of the drift's", "with the best factor"]
        return f"## The drift and eq. 7\n\n{table(head, rows)}\n\n![cosine along t](score_difference.png)"


def difference_of_scores(
    x: HostState,
    labels: Labels,
    known: Known,
    classes: Classes,
    bandwidth: float,
) -> HostState:
    """g at points x of classes `labels`: bandwidth^2 (score_2 - score_1), with the known examples of that class as p_2.

    Args:
        x: the points.
        labels: the class of each point.
        known: the examples of all classes.
        classes: the class of each example.
        bandwidth: sigma_t, the deviation of the noise that smooths both densities.
    """
    score = _kernel_score(x, labels, known, classes, bandwidth)
    return bandwidth**2 * (score + x / (1.0 + bandwidth**2))


def _exact_drift(path: Any, x: HostState, t: float, labels: Labels, known: Known, classes: Classes) -> HostState:
    """E[dx_t/dt | x_t = x] where x1 is one of the known examples: x / alpha has their density smoothed by sigma / alpha."""
    import jax.numpy as jnp

    times = jnp.full(len(x), t, jnp.float32)
    alpha, sigma = (float(f(times)[0]) for f in (path.alpha, path.noise_std))
    score = jnp.asarray(_kernel_score(x / alpha, labels, known, classes, sigma / alpha)) / alpha
    return np.asarray(path.convert(score, jnp.asarray(x), times, given="score", wanted="velocity"))


def _kernel_score(x: HostState, labels: Labels, known: Known, classes: Classes, bandwidth: float) -> HostState:
    import jax.numpy as jnp

    from scoreflow_jax.sampling.kernel_score import smoothed_density

    score = np.empty_like(x)
    for c in np.unique(labels):
        here = labels == c
        of_class = jnp.asarray(known[classes == c])
        score[here] = smoothed_density(jnp.asarray(x[here]), of_class, bandwidth).score
    return score


def _compared(g: HostState, f: HostState) -> dict[str, float]:
    """How g resembles f: the mean cosine, the square error relative to f's, and what the best factor leaves of it."""
    a, b = (v.reshape(len(v), -1).astype(np.float64) for v in (g, f))
    inner, of_g, of_f = (np.sum(u * v, axis=1) for u, v in ((a, b), (a, a), (b, b)))
    factor = inner.sum() / of_g.sum()
    return {
        "cosine": float(np.mean(inner / np.sqrt(of_g * of_f))),
        "relative_error": float(np.sum((a - b) ** 2) / of_f.sum()),
        "best_factor": float(factor),
        "error_at_best_factor": float(1.0 - inner.sum() ** 2 / (of_g.sum() * of_f.sum())),
    }
