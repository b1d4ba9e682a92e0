"""--mode=difference-flow: particles from noise, or from a class, to the data by a difference of scores (Weber 2023, 2304.12906).

config.difference.scores says whose: `kernel`, of the smoothed training examples, without any training; `learned`, of the run in
the workdir; `classifier`, a GAN whose generator are the particles.
"""

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from scoreflow_jax import files, plots
from scoreflow_jax.commands import reports
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.particles import draw_animation, draw_panels, measure_particles
from scoreflow_jax.experiment import Experiment, build
from scoreflow_jax.loading import load_model
from scoreflow_jax.model import Model
from scoreflow_jax.models.classifier import Classifier
from scoreflow_jax.paths import AffinePath
from scoreflow_jax.plain_config import read_config
from scoreflow_jax.progress import progress
from scoreflow_jax.randomness import key_of
from scoreflow_jax.sampling.difference_flow import (
    Difference,
    DifferenceFlow,
    Flowed,
    Score,
    flow_particles,
    score_difference,
    smoothed_kl,
)
from scoreflow_jax.sampling.kernel_score import smoothed_density
from scoreflow_jax.sampling.noise import noise_for
from scoreflow_jax.sampling.smoothed_score import bandwidth_limits, smoothed_score
from scoreflow_jax.settings.commands import FlowFields
from scoreflow_jax.settings.fields import declared
from scoreflow_jax.training.classifier import ClassifierDifference
from scoreflow_jax.typing import HostState, PyTree
from scoreflow_jax.user_paths import user_path


class Mover(NamedTuple):
    """What moves the particles.

    Attributes:
        difference: of the scores.
        memory: that it begins with.
        network_calls: of a particle at a step.
        facts: what the report says of it.
    """

    difference: Difference
    memory: PyTree
    network_calls: int
    facts: dict[str, Any]


def _flow(settings: FlowFields) -> DifferenceFlow:
    """How the particles move, of all that `config.difference` says."""
    return DifferenceFlow(**{name: getattr(settings, name) for name in declared(FlowFields)})


def run_command(experiment: Experiment, workdir: pathlib.Path, out: str | None = None) -> None:
    """Writes difference_flow/{particles.npz, panels.png, animation.gif, kl.png, report.json}.

    Args:
        experiment: built from the config at hand.
        workdir: the run's folder; only learned scores need a run there.
        out: the folder to write to; None: difference_flow/ in the workdir.

    Raises:
        UserError: learned scores without a run, or of a class that the config does not name; a class without examples; particles
            that are not finite.
    """
    settings, flow = experiment.difference, _flow(experiment.difference)
    learned = settings.scores == "learned"  # the others need no run, and know classes of no other data than these
    data = Data(workdirs.of_run(experiment, workdir) if learned else experiment)
    training = _examples(data, settings.target, settings.num_data)
    folder = reports.out_folder("difference-flow", workdir, "difference_flow", out)
    start = _start(data)
    began = time.perf_counter()
    mover = {"kernel": _by_kernels, "learned": _by_models, "classifier": _by_classifier}[settings.scores](
        experiment, workdir, training, start
    )
    kept = np.unique(np.linspace(0, flow.num_steps, settings.num_frames).round().astype(int)).tolist()
    estimates: list[dict[str, Any]] = []
    with progress("steps", flow.num_steps, " steps") as bar:

        def watch(step: int, particles: Any, memory: PyTree) -> None:
            """Estimates the divergence of what is there now."""
            del memory
            bar.update(step - bar.n)
            estimates.append({"step": step, **_estimate(experiment, particles, training)})

        with jax.default_matmul_precision(experiment.solver.precision):
            flowed = flow_particles(
                mover.difference, start, flow, _key(experiment, "move"), memory=mover.memory, kept=kept, watch=watch
            )
    seconds = time.perf_counter() - began
    _write(experiment, folder, data, flowed, kept, flow)
    report = {
        **_head(experiment, mover),
        "cost": {
            "steps": flow.num_steps,
            "network_calls": flow.num_steps * mover.network_calls,
            "seconds": round(seconds, 2),
        },
        "num_particles": len(start),
        "training_examples": len(training),
        "kl": estimates,
        **measure_particles(data, np.asarray(flowed.particles), np.asarray(training), settings.target),
    }
    _draw_kl(folder / "kl.png", estimates, settings.kl_bandwidth)
    files.write_json(folder / "report.json", report)
    print(_line(report, folder))


def _key(experiment: Experiment, name: str) -> Any:
    return key_of(jax.random.key(experiment.difference.seed), name)


def _examples(data: Data, label: int | None, most: int) -> Any:
    """Training examples of a class, or of all, at most so many (0: all), in the order that the seed shuffles them to.

    Raises:
        UserError: there are none, or one alone.
    """
    images, labels = data.images("train")
    members = np.arange(len(labels)) if label is None else np.flatnonzero(labels == label)
    if len(members) < 2:
        raise UserError(f"the training split has {len(members)} examples of class {label}, expected two at least")
    order = np.asarray(jax.random.permutation(_key(data.experiment, "examples"), len(members)))
    return jnp.asarray(images[members[order][: most or None]], jnp.float32)


def _start(data: Data) -> Any:
    """Where particles begin: noise i from fold_in(key, i), or different training examples of the source class."""
    settings, shape = data.experiment.difference, data.experiment.spec.shape
    if settings.source is None:
        return noise_for(_key(data.experiment, "particles"), jnp.arange(settings.num_particles), shape)
    return _examples(data, settings.source, settings.num_particles)


def _by_kernels(experiment: Experiment, workdir: pathlib.Path, training: Any, start: Any) -> Mover:
    del workdir
    settings = experiment.difference
    of: Callable[[str], Score] = lambda name: lambda x, s, memory: smoothed_density(x, memory[name], s).score  # noqa: E731
    fixed = of("source") if settings.against == "source" else None
    memory = {"target": training, "source": start if fixed else None}
    return Mover(score_difference(of("target"), fixed, exclude_self=settings.exclude_self), memory, 0, {})


def _by_models(experiment: Experiment, workdir: pathlib.Path, training: Any, start: Any) -> Mover:
    """The run's score of the target class; what is left is the particles' kernel density, or a score of this or another run."""
    del training
    settings = experiment.difference
    model = workdirs.open_model(experiment, workdir, batch_size=len(start))
    score_p = _model_score(model, "p", settings.target, len(start), "target")
    facts: dict[str, Any] = {"p": {"step": model.step, "parameters_sha256": model.fingerprint}}
    if settings.against == "particles":
        return Mover(score_difference(score_p, exclude_self=settings.exclude_self), {"p": model.params}, 1, facts)
    left = model
    if settings.other is not None:
        folder = user_path(settings.other)
        left = load_model(build(read_config(folder)), folder, batch_size=len(start))
        if left.image_shape != model.image_shape:
            raise UserError(f"config.difference.other is of {left.image_shape}, expected the run's {model.image_shape}")
    score_q = _model_score(left, "q", settings.source, len(start), "source")
    facts["q"] = {"step": left.step, "parameters_sha256": left.fingerprint}
    return Mover(score_difference(score_p, score_q), {"p": model.params, "q": left.params}, 2, facts)


def _model_score(model: Model, name: str, label: int | None, count: int, field: str) -> Score:
    """The smoothed score of a model's class, its parameters from the memory.

    Raises:
        UserError: a conditional model and no class, a path without a score, or bandwidths that it does not have.
    """
    e, settings = model.experiment, model.experiment.difference
    if model.num_classes and (label is None or label >= model.num_classes):
        raise UserError(
            f"config.difference.{field} is {label}, but the model knows the densities of its classes: expected one from 0 to "
            f"{model.num_classes - 1}"
        )
    if not isinstance(e.path, AffinePath) or not e.path.gaussian_source:
        raise UserError("config.difference.scores is 'learned', which needs a path from Gaussian noise: take 'kernel'")
    low, high = bandwidth_limits(e.path)
    for sigma in (settings.sigma_start, settings.sigma_end):
        if not low <= sigma <= high:
            raise UserError(
                f"config.difference.sigma_start and sigma_end are {settings.sigma_start} and {settings.sigma_end}, but the "
                f"model's path has bandwidths from {low:.3g} to {high:.3g}"
            )
    labels = jnp.full(count, label, jnp.int32) if model.num_classes and label is not None else None

    def score(x: Any, bandwidth: Any, memory: PyTree) -> Any:
        """The score of the drift with these parameters."""
        drift = e.drift(memory[name])
        assert isinstance(drift.path, AffinePath)
        return smoothed_score(lambda kind, x, t: drift.predict(kind, x, t, labels), drift.path)(x, bandwidth)

    return score


def _by_classifier(experiment: Experiment, workdir: pathlib.Path, training: Any, start: Any) -> Mover:
    del workdir
    settings, flow = experiment.difference, _flow(experiment.difference)
    difference = ClassifierDifference(
        network=Classifier(width=settings.classifier_width),
        optimizer=optax.adam(settings.classifier_rate),
        num_steps=settings.classifier_steps,
        batch_size=settings.classifier_batch,
        key=_key(experiment, "classifier"),
    )
    memory = difference.start(training, start, flow.bandwidth(0), settings.classifier_warmup)
    updates = settings.classifier_warmup + flow.num_steps * settings.classifier_steps
    return Mover(difference, memory, 1, {"classifier_updates": updates})


def _estimate(experiment: Experiment, particles: Any, training: Any) -> dict[str, float]:
    found = smoothed_kl(particles, training, experiment.difference.kl_bandwidth, _key(experiment, "smoothing"))
    return {"kl": found.mean, "error": found.error}


def _write(
    experiment: Experiment, out: pathlib.Path, data: Data, flowed: Flowed, kept: list[int], flow: DifferenceFlow
) -> None:
    """particles.npz, panels.png and animation.gif."""
    own: Callable[[HostState], Any] = data.units.own if experiment.spec.is_points else experiment.scaling.to_pixels
    frames, what = flowed.frames, "points" if experiment.spec.is_points else "images"
    stored = {what: own(frames[-1]), "start": own(frames[0]), "frames": np.stack([own(x) for x in frames])}
    files.save_arrays(out / "particles.npz", {**stored, "steps": np.asarray(kept)})
    captions = [f"step {step}, s = {float(flow.bandwidth(max(step - 1, 0))):.2f}" for step in kept]
    draw_panels(out / "panels.png", data, frames, captions)
    draw_animation(out / "animation.gif", data, frames, captions)


def _draw_kl(path: pathlib.Path, estimates: list[dict[str, Any]], bandwidth: float) -> None:
    steps, kl, error = ([e[name] for e in estimates] for name in ("step", "kl", "error"))
    low, high = ([k + sign * 2 * e for k, e in zip(kl, error, strict=True)] for sign in (-1, 1))
    curve = plots.Curve("estimate, two standard errors", steps, kl, low, high)
    axes = plots.Axes(f"KL of particles from data, both smoothed by {bandwidth}", "step", "nats", level=("none", 0.0))
    with files.whole_file(path) as temporary:
        plots.save_curves(temporary, [curve], axes)


def _head(experiment: Experiment, mover: Mover) -> dict[str, Any]:
    """Enough to make the same again."""
    return {
        "mode": "difference-flow",
        "name": experiment.name,
        "config_hash": experiment.config_hash,
        "difference": json.loads(json.dumps(experiment.config.get("difference", {}))),
        **mover.facts,
        **reports.environment(),
    }


def _line(report: dict[str, Any], out: pathlib.Path) -> str:
    """What came of it, for the terminal."""
    first, last, found, real = report["kl"][0], report["kl"][-1], report["moved"], report["held_out"]
    judged = [
        f"{name} {found[name]:.1%} (held out {real[name]:.1%})" for name in ("recognized", "agreed") if name in found
    ]
    nearest = f"nearest training example {found['nearest_distance']:.3f} (held out {real['nearest_distance']:.3f})"
    summary = "; ".join([*judged, nearest, f"nearer than any held out {found['nearer_than_any_held_out']:.1%}"])
    return f"KL {first['kl']:.2f} to {last['kl']:.2f} nats in {report['cost']['seconds']} s; {summary}; see {out / 'panels.png'}"
