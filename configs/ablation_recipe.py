"""Ablation on CIFAR-10: the recipe of configs/cifar10_small.py, by short runs that see equally many images.

Command     python main.py --config=configs/ablation_recipe.py --mode=study
            (stopped, it goes on; without tensorflow-datasets: --config.data.source=arrays --config.data.path=FILE.npz)
Hardware    a laptop: 2 CPU cores, under 3 GB
Time        9 minutes a row and seed on 2 idle cores with bfloat16 of their own; the full form some six hours (not run)
Expect      KID 0.384 of the baseline, 0.347 at twice the rate, 0.415 at half, 0.317 with batches of 32, 0.377 at time scale 4,
            0.395 with uniform times, 0.440 with later ones, 0.441 with p = 1; the table is in docs/results.md
Variants    configs/ablation_recipe.py:full        100,000 images in place of 20,000
            configs/ablation_recipe.py:bfloat16    that type against float32 alone: 500 steps of 16 images, three seeds
            configs/ablation_recipe.py:size        the chosen recipe, by a network of half as many channels again, and by one
                                                   whose images are not folded, which take some two and four times as long

The baseline is what the recipe began as, a rate of 5e-4 and a time scale of 30. All rows but the one of another batch take about
the same time. Distances are KID of 1,000 images: FID wants more.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import cifar10_small, common

_IMAGES = {"": 20_000, "full": 100_000, "bfloat16": 500 * 16, "size": 20_000}


def get_config(variant: str = "") -> ConfigDict:
    """The grid, in its small or its full form, the two rows that differ in type, or those that differ in size."""
    if variant not in _IMAGES:
        raise ValueError(f"no variant {variant!r} of ablation_recipe, expected full, bfloat16, size or none")
    images = _IMAGES[variant]
    config = cifar10_small.get_config()
    if variant == "bfloat16":
        config.train.batch_size = 16
    config.optimizer.update(learning_rate=5e-4, warmup_steps=100)
    config.model.time_scale = 30.0
    config.train.update(_steps(images, config.train.batch_size), sample_every=0, tensorboard=False)
    config.solver.update(method="midpoint", num_steps=20)
    config.eval.update(
        split="test",
        generation={"images": 1000, "keep_images": False},
        reversibility={"on": False},
        residual={"on": True, "images": 500, "noises": 1, "times": 11},
    )
    # A step of 32 images takes 0.54 of one of 64, so 0.92 of the images in the same time (docs/performance.md).
    cells = {
        "baseline": {},
        "later, wider times": _times("logit_normal", mean=1.2, std=1.2),
        "uniform times": _times("uniform"),
        "p = 1, uniform times": {"changes": {**_times("uniform")["changes"], "objective": _weighted(1.0)}},
        "twice the rate": _optimizer(learning_rate=1e-3),
        "half the rate": _optimizer(learning_rate=2.5e-4),
        "no clipping": _optimizer(clip_norm=0.0),
        "batch 32": {"changes": {"train": {"batch_size": 32, **_steps(images, 32)}}},
        "batch 32, twice the rate, as many seconds": {
            "changes": {
                "train": {"batch_size": 32, **_steps(images * 92 // 100, 32)},
                "optimizer": {"learning_rate": 1e-3},
            }
        },
        "average of 20 steps": {"changes": {"train": {"ema_decay": 0.95}}},
        "time scale 4": {"changes": {"model": {"time_scale": 4.0}}},
        "time scale 999": {"changes": {"model": {"time_scale": 999.0}}},
        "no flips": {"changes": {"data": {"flip": False}}},
        "twice the rate, time scale 4": {
            "changes": {"optimizer": {"learning_rate": 1e-3}, "model": {"time_scale": 4.0}}
        },
    }
    if variant == "bfloat16":
        cells = {"baseline": {}, "float32": {"changes": {"model": {"dtype": "float32"}}}}
        config.eval.generation.on = False  # what counts is the held-out error
    if variant == "size":
        config.optimizer.learning_rate, config.model.time_scale = 1e-3, 4.0
        cells = {
            "baseline": {},
            "half as many channels again": {"changes": {"model": {"base_channels": 96}}},
            "not folded": {"changes": {"model": {"patch": 1}}},
        }
    config = common.study(config, f"ablation_recipe{variant and '_' + variant}", "baseline", cells)
    config.study.seeds = (0, 1, 2) if variant == "bfloat16" else (0,)
    return config


def _steps(images: int, batch: int) -> dict[str, int]:
    steps = images // batch
    return {"num_steps": steps, "checkpoint_every": steps, "log_every": max(steps // 4, 1)}


def _times(name: str, **fields: object) -> dict[str, Any]:
    return {"changes": {"times": common.given(common.times(name, **fields))}}


def _weighted(p: float) -> dict[str, Any]:
    return common.given(common.path_constrained(weight_exponent=p))


def _optimizer(**fields: float) -> dict[str, Any]:
    return {"changes": {"optimizer": fields}}
