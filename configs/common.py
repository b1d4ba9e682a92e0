"""What the experiments share: a new config with every field at its default, variants of it, and studies.

The fields stand in scoreflow_jax/settings, those of an evaluation's parts in scoreflow_jax/evaluation, and
`python main.py --help=SECTION` prints them. A config file shows only what differs from their defaults.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from scoreflow_jax.evaluation.parts import PARTS
from scoreflow_jax.plain_config import FORMER, SWITCHED
from scoreflow_jax.sections import FAMILIES, SECTIONS, field_at, new_section
from scoreflow_jax.settings.fields import annotations, plain_type
from scoreflow_jax.settings.model import MODELS


def base(name: str) -> ConfigDict:
    """Everything an experiment has, with the paper's values where it states them."""
    sections = {section: _typed(section, new_section(section)) for section in SECTIONS if section != "study"}
    return ConfigDict({"name": name, "seed": 0, **sections})


def _typed(place: str, values: Mapping[str, Any]) -> ConfigDict:
    """Values as a ConfigDict, in which None stands for a value of the field's type."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        here = f"{place}.{name}"
        if isinstance(value, Mapping) and field_at(here, {}) is None:
            found[name] = _typed(here, value)
        else:
            found[name] = placeholder(_type_at(here)) if value is None else value
    return (Evaluation if place == "eval" else ConfigDict)(found)


def _type_at(place: str) -> type:
    found = field_at(place, {})
    kind = plain_type(annotations(found[0])[place.rpartition(".")[2]]) if found is not None else None
    assert kind is not None, f"{place} is None by default, but of no one type"
    return kind


class Evaluation(ConfigDict):
    """`config.eval`, which takes the flat names of before too: `straightness_images` for `straightness.images`."""

    def __setitem__(self, key: str, value: Any) -> None:
        """Sets a field; of a part's section those that are given; by a name of before the part's field."""
        section = isinstance(value, (Mapping, ConfigDict))
        if key in FORMER and not (section and key in PARTS):
            part, name = FORMER[key]
            self[part][name] = SWITCHED.get(value, value) if key == "likelihood" else value
        elif section and key in PARTS and key in self.keys():
            self[key].update(value)
        else:
            super().__setitem__(key, value)

    def __getitem__(self, key: str) -> Any:
        """A field, a part's section, or by a name of before a part's field."""
        if key in FORMER and key not in PARTS:
            part, name = FORMER[key]
            return self[part][name]
        return super().__getitem__(key)

    def update(self, *other: Mapping[str, Any], **fields: Any) -> None:
        """Sets several."""
        for values in (*other, fields):
            for key, value in values.items():
                self[key] = value


def path(name: str, **fields: Any) -> ConfigDict:
    """How noise becomes data; fields that are not given are the path's own defaults."""
    return _member("path", name, fields)


def objective(name: str, **fields: Any) -> ConfigDict:
    """The loss; fields that are not given are its own defaults."""
    return _member("objective", name, fields)


def path_constrained(**fields: Any) -> ConfigDict:
    """The paper's loss, every field stated."""
    return _typed("objective", {**new_section("objective"), **fields})


def times(name: str, **fields: Any) -> ConfigDict:
    """How training times are drawn; fields that are not given are the distribution's own defaults."""
    return _member("times", name, fields)


def _member(section: str, name: str, fields: Mapping[str, Any]) -> ConfigDict:
    return _typed(section, {**FAMILIES[section].section(name, stated=section == "model"), **fields})


def mlp() -> ConfigDict:
    """Dense residual blocks, for points of a table."""
    return _member("model", "mlp", {})


def use_256(config: ConfigDict) -> ConfigDict:
    """The paper's 256x256 networks: DDPM++ as it says; what it does not say follows RectifiedFlow's 256x256 configs."""
    config.data.shape = (256, 256, 3)
    config.model.update(
        channel_multipliers=(1, 1, 2, 2, 2, 2, 2),
        num_blocks=2,
        attention_resolutions=(16,),
        dropout=0.0,
        remat_resolutions=(256, 128, 64),
        dtype="bfloat16",
    )
    config.train.update(batch_size=64, ema_decay=0.999)
    config.sample.batch_size = config.translate.batch_size = config.interpolate.batch_size = 16
    config.eval.batch_size = 16
    config.eval.generation.keep_images = False
    return config


def use_digits(config: ConfigDict) -> ConfigDict:
    """scikit-learn's digits with a network for them."""
    config.data.update(source="digits", name="digits", shape=(8, 8, 1), levels=17, flip=False)
    config.model.update(
        base_channels=32, channel_multipliers=(1, 2), num_blocks=1, attention_resolutions=(), dropout=0.0
    )
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100)
    config.train.update(
        batch_size=64, num_steps=2500, ema_decay=0.995, sample_every=500, checkpoint_every=500, log_every=50
    )
    # Inception means nothing on 8x8 digits: distances are between pixels, recognition is a classifier's.
    config.eval.update(
        extractor="pixels",
        classifier=True,
        generation={"images": 1000},
        translation={"on": True, "images": 2},
        likelihood={"by": "ode", "images": 355},
        truncation={"on": True},
        audit={"on": True},
    )
    config.reflow.update(num_pairs=10_000, shard_size=1000, num_steps=2500)
    return config


def use_toy(config: ConfigDict, name: str) -> ConfigDict:
    """Two-dimensional points of a known density, with a network that learns them in under a minute."""
    config.model = mlp()
    config.model.update(width=128, num_blocks=3)
    config.data.update(source="toy", name=name, shape=(), levels=0, flip=False)
    find_classes(config)
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100)
    config.train.update(
        batch_size=512, num_steps=2000, ema_decay=0.995, sample_every=0, checkpoint_every=2000, log_every=200
    )
    config.sample.update(num_images=3000, batch_size=3000)
    config.interpolate.update(batch_size=500)
    config.eval.update(
        extractor="pixels",
        batch_size=5000,
        generation={"images": 5000},
        reversibility={"images": 1000},
        likelihood={"by": "ode", "images": 2000, "probe": "exact"},
    )
    config.eval.split = "test"  # 5,000 points; among the 50,000 of training neighbours take minutes to find
    config.reflow.update(num_pairs=50_000, shard_size=10_000, batch_size=5000, num_steps=2000)
    return config


TOYS = ("checkerboard", "moons", "gaussians")


def system(name: str, variant: str) -> ConfigDict:
    """What every system of the comparison starts from: CIFAR-10; `digits` or a toy density, by the variant.

    The system's own parts, its path, objective and sampler, go on top, so that nothing else differs between two of them.
    """
    config = base(name if variant in ("", "smoke") else f"{name}_{variant}")
    if variant == "digits":
        return use_digits(config)
    return use_toy(config, variant) if variant in TOYS else config


def system_variant(config: ConfigDict, name: str) -> ConfigDict:
    """The config, or its smoke form.

    Raises:
        ValueError: a variant that no system has.
    """
    known = ("", "smoke", "digits", *TOYS)
    if name not in known:
        raise ValueError(f"no variant {name!r} of {config.name}, expected one of {', '.join(known[1:])} or none")
    return variant(config, "smoke" if name == "smoke" else "")


def use_score_sde(config: ConfigDict, path: ConfigDict) -> ConfigDict:
    """A score SDE on this path, as Song et al. train it: on CIFAR-10 unconditional, as their checkpoints are."""
    config.path = path
    config.parameterization.update(predicts="noise", told="reversed")
    config.objective = objective("denoising_score_matching", weight="variance")
    config.sampler.update(name="euler_maruyama", num_steps=1000)
    if config.data.source == "tfds":
        config.data.num_classes = 0
        config.model.update(conditional=False, dropout=0.1)
        config.train.ema_decay = 0.9999
    return config


def find_classes(config: ConfigDict) -> ConfigDict:
    """As many classes as the data turn out to have; with fewer than two the network is unconditional."""
    with config.ignore_type():
        config.data.num_classes = placeholder(int)
        config.model.conditional = placeholder(bool)
    return config


def between(config: ConfigDict, **base: Any) -> ConfigDict:
    """Joins two data sets by the plain ODE: `base` are the fields of `config.data` that differ for the one at t = 0."""
    config.data.update(num_classes=0, base=ConfigDict(base))
    config.model.conditional = False
    config.eval.translation.on = False
    return config


def use_size(config: ConfigDict, size: int) -> ConfigDict:
    """A DDPM++ for square pictures of 64 or 128; of 256 the paper's. The first two are our choice: no paper states them."""
    if size == 256:
        return use_256(config)
    config.data.shape = (size, size, 3)
    multipliers = {64: (1, 2, 2, 2), 128: (1, 1, 2, 2, 2)}[size]
    config.model.update(channel_multipliers=multipliers, num_blocks=2, dropout=0.1)
    config.train.update(batch_size=64, ema_decay=0.9999, num_steps=400_000)
    config.sample.batch_size = config.translate.batch_size = config.interpolate.batch_size = 50
    config.eval.batch_size = 50
    return config


def given(section: ConfigDict) -> dict[str, Any]:
    """The fields of a section that say something, for a cell of a study: ml_collections takes no None there."""
    return {name: value for name, value in section.to_dict().items() if value is not None}


def study(
    config: ConfigDict,
    name: str,
    baseline: str,
    cells: dict[str, Any],
    decides: dict[str, tuple[str, str, str]] | None = None,
) -> ConfigDict:
    """A grid over a config for --mode=study: rows by name, each with what it changes.

    `decides` has the comparisons that it is to decide, over eight seeds: by name (row, row that it is held against, figure).
    """
    config.name = name
    comparisons = {k: dict(zip(("cell", "against", "figure"), v, strict=True)) for k, v in (decides or {}).items()}
    with config.unlocked():
        # A ConfigDict goes by the alphabet: the order of the rows is stated.
        config.study = ConfigDict({"seeds": (0, 1, 2), "baseline": baseline, "cells": cells, "order": tuple(cells)})
        config.study.comparisons = ConfigDict(comparisons)
    return config


def digits_study(full: bool) -> ConfigDict:
    """What the studies on digits have in common: dequantized data, so that bits/dim mean something, and few figures."""
    config = use_digits(base("digits"))
    steps = 2500 if full else 600
    config.data.dequantize = True
    # 1e-5 takes three times the calls, and changes distances by a fifth of a per cent.
    config.solver.update(rtol=1e-4, atol=1e-4)
    config.train.update(
        num_steps=steps,
        sample_every=0,
        checkpoint_every=steps,
        log_every=steps // 4,
        ema_decay=0.995,
        tensorboard=False,
    )
    for part in ("translation", "truncation", "audit", "reversibility"):
        config.eval[part].on = False
    config.eval.update(
        generation={"images": 1000 if full else 400, "keep_images": False},
        residual={"on": True, "images": 364},
        likelihood={"images": 364 if full else 100},
    )
    return config


def variant(config: ConfigDict, name: str) -> ConfigDict:
    """The config itself, or with name "smoke" the same with a tiny network and a few steps, to see that all of it runs.

    Raises:
        ValueError: another name.
    """
    if name == "":
        return config
    if name != "smoke":
        raise ValueError(f"no variant {name!r} of {config.name}, expected smoke or none")
    config.name += "_smoke"
    config.model.update(MODELS[config.model.name].smoke)
    config.model.dtype = "float32"  # most CPUs, where such runs belong, emulate bfloat16
    height, *_, channels = config.data.shape or (0, 0)
    if height > 32:  # so shallow a network would have attention over 16,384 pixels in the middle of 256x256 images
        config.data.shape = (32, 32, channels)
        config.model.remat_resolutions = (32,)
    config.optimizer.warmup_steps = 2
    config.train.update(batch_size=8, num_steps=4, log_every=2, sample_every=4, checkpoint_every=2, tensorboard=False)
    config.solver.update(rtol=1e-3, atol=1e-3)
    config.sample.update(num_images=10, batch_size=10)
    config.translate.update(num_images=10, batch_size=10, shown=4)
    config.interpolate.update(num_pairs=2, num_steps=5)
    config.figures.update(num_images=4, num_times=3, num_pairs=2, num_steps=3, batch_size=4)
    config.eval.update(extractor="pixels", batch_size=20, **{name: part.smoke for name, part in PARTS.items()})
    config.reflow.update(num_pairs=20, shard_size=8, batch_size=10, num_steps=4)
    config.sampler.num_steps = 4
    config.difference.update(num_particles=20, num_data=100, num_steps=4, num_frames=3)
    config.difference.update(classifier_warmup=2, classifier_steps=1, classifier_batch=8, classifier_width=16)
    return config
