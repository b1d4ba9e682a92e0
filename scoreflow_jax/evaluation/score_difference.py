"""How far the learned drift is from what ScoreFlow says that it is, the scaled difference of scores of its eq. 7,

    g(x, t, c) = sigma' sigma grad log(p_2 / p_1) = sigma_t^2 (score_2 - score_1),    sigma_t = sigma_0 e^t,

p_1 the source N(0, I) and p_2 the data of class c, both smoothed by N(0, sigma_t^2 I). The scores of p_2 are those of the
training examples smoothed by the kernel, exact for that data set; score_1 = -x / (1 + sigma_t^2). Both fields are taken at points
x_t of the path, from held-out examples.

The control is the drift that is exact on the path for the training examples as data, E[dx_t/dt | x_t], from the same kernel
weights: how far a learned drift is from *that* says what the examples being few does.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from scoreflow_jax import files, plots
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.straightness import in_batches
from scoreflow_jax.model import Model
from scoreflow_jax.paths import AffinePath
from scoreflow_jax.sampling.kernel_score import smoothed_density
from scoreflow_jax.typing import HostState

TIMES = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)
CONTROL = "exact drift of the training data"

Fields = dict[str, list[HostState]]
Known = Float[np.ndarray, "known ..."]
Labels = Int[np.ndarray, " batch"]
Classes = Int[np.ndarray, " known"]


def measure_score_difference(model: Model, data: Data, out: pathlib.Path) -> dict[str, Any]:
    """Cosine and relative square errors of g against f along t, for every sigma_0; draws score_difference.png.

    Raises:
        UserError: a source that is not Gaussian.
    """
    settings = data.settings
    path = model.experiment.drift(jax.device_get(model.params)).path
    if not (isinstance(path, AffinePath) and path.gaussian_source and path.prior_scale == 1.0):
        raise UserError(
            "config.eval.score_difference compares with eq. 7 from N(0, I), which this path does not start from: set it to False"
        )
    images, labels = data.images("test", data.some(settings.score_difference_images))
    known, classes = data.images("train")
    if not model.num_classes:
        labels, classes = np.zeros_like(labels), np.zeros_like(classes)
    chosen = labels if model.num_classes else None
    x0 = np.asarray(model.source_points(jax.random.key(settings.seeds[0]), len(images)))
    names = {f"sigma_0 = {s:g}": s for s in settings.score_difference_sigmas}
    fields: Fields = {name: [] for name in (*names, CONTROL)}
    learned = []
    for t in TIMES:
        x_t = np.asarray(path.interpolant(jnp.full(len(x0), t, jnp.float32), jnp.asarray(x0), jnp.asarray(images)))
        learned.append(in_batches(model, x_t, t, chosen))
        for name, start in names.items():
            fields[name].append(difference_of_scores(x_t, labels, known, classes, start * float(np.exp(t))))
        fields[CONTROL].append(_exact_drift(path, x_t, t, labels, known, classes))
    rows = {name: [_compared(g, f) for g, f in zip(field, learned, strict=True)] for name, field in fields.items()}
    curves = [plots.Curve(n, TIMES, [r["cosine"] for r in row], dashed=n == CONTROL) for n, row in rows.items()]
    title = f"{model.experiment.name}: the learned drift against sigma' sigma grad log(p2 / p1)"
    with files.whole_file(out / "score_difference.png") as temporary:
        plots.save_curves(temporary, curves, plots.Axes(title, "t", "cosine with the learned drift"))
    return {"images": len(images), "times": list(TIMES), "rows": rows}


def difference_of_scores(
    x: HostState,
    labels: Labels,
    known: Known,
    classes: Classes,
    bandwidth: float,
) -> HostState:
    """g at points x of classes `labels`: bandwidth^2 (score_2 - score_1), with the known examples of that class as p_2."""
    score = _kernel_score(x, labels, known, classes, bandwidth)
    return bandwidth**2 * (score + x / (1.0 + bandwidth**2))


def _exact_drift(path: AffinePath, x: HostState, t: float, labels: Labels, known: Known, classes: Classes) -> HostState:
    """E[dx_t/dt | x_t = x] where x1 is one of the known examples: x / alpha has their density smoothed by sigma / alpha."""
    times = jnp.full(len(x), t, jnp.float32)
    alpha, sigma = (float(f(times)[0]) for f in (path.alpha, path.noise_std))
    score = jnp.asarray(_kernel_score(x / alpha, labels, known, classes, sigma / alpha)) / alpha
    return np.asarray(path.convert(score, jnp.asarray(x), times, source="score", target="velocity"))


def _kernel_score(x: HostState, labels: Labels, known: Known, classes: Classes, bandwidth: float) -> HostState:
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
