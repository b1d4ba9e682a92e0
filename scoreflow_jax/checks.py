"""What no constructor checks: values of a config that must go together, or be one of several.

The only module besides `experiment.py` that reads config fields, and its other half.
"""

import dataclasses
from typing import Any

from scoreflow_jax import data, models
from scoreflow_jax.data.base import FRAMINGS
from scoreflow_jax.data.order import SAMPLINGS
from scoreflow_jax.density_formula import LEVELS
from scoreflow_jax.errors import UserError
from scoreflow_jax.likelihood import PROBES
from scoreflow_jax.objectives import Interpolant
from scoreflow_jax.ode import METHODS
from scoreflow_jax.sampling import RULES, TRANSLATIONS
from scoreflow_jax.sampling.difference_flow import AGAINST, SCORES, flow_of
from scoreflow_jax.settings import DataSettings, EvalSettings
from scoreflow_jax.training import COUPLINGS

Built = Any
"""An `experiment.Experiment`, which is made one layer above."""


LIKELIHOODS = ("none", "ode", "density", "both")
"""Of `config.eval.likelihood`."""

LABELS = ("reference", "even")
"""Of `config.eval.labels`: the classes of generated examples as in what they are compared with, or evenly."""


def check(experiment: Built) -> None:
    """Values that no constructor checks.

    Raises:
        UserError: the first that is out of range.
    """
    e, classes = experiment, experiment.spec.num_classes
    for name, value, names in (
        ("translate.method", e.translate.method, tuple(TRANSLATIONS)),
        ("interpolate.rule", e.interpolate.rule, RULES),
        ("interpolate.between", e.interpolate.between, ("latents", "images")),
        ("train.coupling", e.train.coupling, COUPLINGS),
        ("difference.scores", e.difference.scores, SCORES),
        ("difference.against", e.difference.against, AGAINST),
    ):
        if value not in names:
            raise UserError(f"config.{name} is {value!r}, expected one of {', '.join(names)}")
    _check_eval(experiment)
    _check_path(experiment)
    _check_difference(experiment)
    labels = [("sample.labels", v) for v in e.sample.labels] + [("interpolate.labels", v) for v in e.interpolate.labels]
    labels += [("figures.classes", v) for v in e.figures.classes]
    labels += [(f"translate.{n}", v) for n in ("source", "target") if (v := getattr(e.translate, n)) is not None]
    labels += [(f"difference.{n}", v) for n in ("source", "target") if (v := getattr(e.difference, n)) is not None]
    if e.data.base:  # commands/translate_base.py checks them: there they mean the two data sets
        labels = [(name, value) for name, value in labels if not name.startswith("translate.")]
    for name, value in labels:
        if type(value) is not int or not 0 <= value < classes:
            raise UserError(f"config.{name} has {value!r}, expected a class from 0 to {classes - 1}")
    if len(set(e.figures.classes)) < len(e.figures.classes):
        raise UserError(f"config.figures.classes is {e.figures.classes}, expected different classes")
    if not 0 <= e.train.ema_decay < 1:
        raise UserError(f"config.train.ema_decay is {e.train.ema_decay}, expected at least 0 and less than 1")
    _check_counts(experiment)


def _check_path(experiment: Built) -> None:
    """Whether parameterization, sampler and objective mean something on the path."""
    path, objective = experiment.path, experiment.objective
    if (path.has_latent or path.num_parameters) and not isinstance(objective, Interpolant):
        what = "has a latent, whose denoiser" if path.has_latent else "is learned, and its numbers"
        raise UserError(
            f"config.path {what} no objective trains but 'interpolant': set config.objective.name to that, or another path"
        )
    for name in ("parameterization", "sampler"):
        try:
            getattr(experiment, name).check_path(experiment.path)
        except ValueError as error:
            raise UserError(f"config.{name}: {error}") from error


def _check_difference(experiment: Built) -> None:
    """Whether the score-difference flow has what it leaves and where it goes."""
    settings = experiment.difference
    try:
        flow_of(settings)
    except ValueError as error:
        raise UserError(f"config.difference: {error}") from error
    for name in ("kl_bandwidth", "classifier_rate"):
        if not getattr(settings, name) > 0:
            raise UserError(f"config.difference.{name} is {getattr(settings, name)}, expected a positive number")
    if settings.classifier_width < 4 or settings.classifier_width % 2:
        raise UserError(
            f"config.difference.classifier_width is {settings.classifier_width}, expected an even number of at least 4"
        )
    if settings.against == "source" and settings.scores == "classifier":
        raise UserError(
            "config.difference.against is 'source', but a classifier is of the particles: set it to 'particles'"
        )
    if settings.other is not None and (settings.scores, settings.against) != ("learned", "source"):
        raise UserError(
            "config.difference.other is the run of what is left: set scores to 'learned' and against to 'source', or leave it"
        )


def check_data(settings: DataSettings) -> None:
    """Values of `config.data` that no source checks.

    Raises:
        UserError: the first that is out of range.
    """
    for name, value, names in (
        ("source", settings.source, tuple(data.SOURCES)),
        ("framing", settings.framing, FRAMINGS),
        ("sampling", settings.sampling, SAMPLINGS),
    ):
        if value not in names:
            raise UserError(f"config.data.{name} is {value!r}, expected one of {', '.join(names)}")
    if settings.label is not None and settings.source not in ("tfds", "table"):
        raise UserError(
            f"config.data.label is {settings.label!r}, but classes of {settings.source} are not features or columns: leave it"
        )
    _check_shape(settings)
    if settings.num_classes is None:
        raise UserError("config.data.num_classes is None: give a number, or let experiment.resolve look at the data")
    if settings.sampling == "balanced" and settings.num_classes < 2:
        raise UserError("config.data.sampling is 'balanced', but the data have no classes: set it to 'natural'")
    for where, fields in (("base", settings.base), *((f"parts.{name}", part) for name, part in settings.parts.items())):
        if fields:
            check_data(dataclasses.replace(data.changed(settings, fields, where), num_classes=0, sampling="natural"))


POINTS = ("table", "toy")
"""Sources of points, where the others have images."""


def _check_shape(settings: DataSettings) -> None:
    """Shape and levels: images have pixels, tables have points.

    Raises:
        UserError: they do not go together.
    """
    shape, images = settings.shape, settings.levels > 0
    if (settings.source in POINTS) == images:
        raise UserError(
            f"config.data.levels is {settings.levels}, but config.data.source is {settings.source!r}: expected 0 for a "
            "table or toy points, and for nothing else"
        )
    base = settings.base.get("source", settings.source)
    if settings.base and (base in POINTS) != (settings.source in POINTS):
        raise UserError(
            f"config.data.base.source is {base!r}, but config.data.source {settings.source!r}: take two of images, or of points"
        )
    if len(shape) != (3 if images else 1) or min(shape) < 1:
        axes = "(height, width, channels)" if images else "(dimension,), or () to find it in the table"
        raise UserError(f"config.data.shape is {shape}, expected {axes}")
    if images and shape[2] not in (1, 3):
        raise UserError(f"config.data.shape is {shape}, expected 1 channel (grey) or 3 (RGB)")


def _check_eval(experiment: Built) -> None:
    """Names and lists of `config.eval`."""
    e, classes = experiment.eval, experiment.num_classes
    for name, value, names in (
        ("split", e.split, ("train", "test")),
        ("labels", e.labels, LABELS),
        ("extractor", e.extractor, ("inception", "pixels")),
        ("resize", e.resize, tuple(models.RESIZES)),
        ("likelihood", e.likelihood, LIKELIHOODS),
        ("likelihood_probe", e.likelihood_probe, PROBES),
        ("density_levels", e.density_levels, LEVELS),
        *(("sweep_methods", method, tuple(METHODS)) for method in e.sweep_methods),
    ):
        if value not in names:
            raise UserError(f"config.eval.{name} has {value!r}, expected {' or '.join(names)}")
    if e.extractor == "inception" and not experiment.spec.levels:
        raise UserError(
            "config.eval.extractor is inception, but Inception takes images, not points of a table: set it to pixels"
        )
    if e.likelihood_probe == "exact" and e.likelihood_probes > 1:
        raise UserError(
            f"config.eval.likelihood_probes is {e.likelihood_probes}, but likelihood_probe is 'exact', which "
            "needs none: set it to 1"
        )
    if (
        not e.seeds
        or any(type(s) is not int or not 0 <= s < 2**32 for s in e.seeds)
        or len(set(e.seeds)) < len(e.seeds)
    ):
        raise UserError(f"config.eval.seeds is {e.seeds}, expected different whole numbers, such as (1, 2, 3)")
    _check_pairs(e.translation_pairs, classes)
    _check_lists(e)


def _check_pairs(pairs: tuple[Any, ...], classes: int) -> None:
    """Pairs of classes to translate between."""
    for pair in pairs:
        if (
            not isinstance(pair, tuple)
            or len(pair) != 2
            or any(type(c) is not int or not 0 <= c < classes for c in pair)
            or pair[0] == pair[1]
        ):
            raise UserError(
                f"config.eval.translation_pairs has {pair}, expected pairs of different classes from 0 to {classes - 1}, "
                "such as ((0, 1), (1, 0))"
            )


def _check_lists(e: EvalSettings) -> None:
    """Numbers of steps and tolerances."""
    if e.sweep and not (e.sweep_methods and (e.sweep_steps or e.sweep_tolerances)):
        raise UserError(
            "config.eval.sweep_methods or both sweep_steps and sweep_tolerances are empty: nothing to sweep"
        )
    for name in ("sweep_steps", "straightness_steps", "density_cost_calls"):
        steps = getattr(e, name)
        if any(type(n) is not int or n < 1 for n in steps):
            raise UserError(f"config.eval.{name} is {steps}, expected whole numbers of at least 1")
    if not all(isinstance(s, int | float) and s > 0 for s in e.score_difference_sigmas):
        raise UserError(
            f"config.eval.score_difference_sigmas is {e.score_difference_sigmas}, expected positive numbers, such as (0.3, 1.0)"
        )
    if not all(isinstance(t, float) and t > 0 for t in (*e.sweep_tolerances, *e.reconstruction_tolerances)):
        raise UserError(
            "config.eval.sweep_tolerances and reconstruction_tolerances: expected positive numbers, such as 1e-3"
        )


_AT_LEAST = {
    0: (
        "sample.seed", "interpolate.seed", "figures.seed", "train.num_workers", "train.profile_steps", "reflow.seed",
        "reflow.distill_steps", "difference.num_data", "difference.seed", "difference.classifier_steps",
        "difference.classifier_warmup",
    ),
    1: (
        "train.batch_size", "train.keep_checkpoints", "train.microbatches", "train.steps_per_call",
        "train.fsdp", "sample.num_images", "sample.batch_size", "sample.columns",
        "translate.num_images", "translate.batch_size", "translate.shown", "interpolate.num_pairs",
        "interpolate.batch_size", "eval.batch_size", "eval.num_reconstructions", "eval.translation_images",
        "eval.likelihood_images", "eval.likelihood_probes", "sample.likelihood_probes",
        "eval.truncation_images", "eval.audit_images", "figures.num_images",
        "figures.num_pairs", "figures.batch_size", "eval.residual_images", "eval.residual_noises", "reflow.rounds",
        "reflow.shard_size", "reflow.batch_size", "reflow.num_steps", "eval.straightness_images",
        "difference.classifier_batch", "difference.classifier_width",
        "eval.density_cost_images", "eval.density_classifier_images", "eval.outlier_images",
        "eval.score_difference_images",
    ),
    2: (
        "translate.num_times", "interpolate.num_steps", "eval.num_images", "eval.sweep_images", "eval.truncation_times",
        "figures.num_times", "figures.num_steps", "eval.straightness_times", "eval.residual_times", "reflow.num_pairs",
        "difference.num_particles", "difference.num_frames",
        "eval.density_calls", "eval.density_classifier_calls", "eval.outlier_calls",
    ),
}  # fmt: skip
"""Fields by the least value that they may have."""


def _check_counts(experiment: Built) -> None:
    if not 0 <= experiment.seed < 2**32:
        raise UserError(f"config.seed is {experiment.seed}, expected 0 to 2^32 - 1")
    for least, names in _AT_LEAST.items():
        for name in names:
            section, field = name.split(".")
            value = getattr(getattr(experiment, section), field)
            if value < least:
                raise UserError(f"config.{name} is {value}, expected at least {least}")
            if field == "seed" and value >= 2**32:  # JAX takes the last 32 bits, which are another's
                raise UserError(f"config.{name} is {value}, expected less than 2^32")
