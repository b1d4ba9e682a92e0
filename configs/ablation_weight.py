"""Ablation on digits: the weight lambda(t) of the path-constrained loss. Does the path constraint help, and where along t?

Command     python main.py --config=configs/ablation_weight.py --mode=study
            (stopped, it goes on; --config.study.seeds="(0, 1, 2, 3, 4)" adds seeds)
Hardware    a laptop: 2 CPU cores, under 2 GB
Time        an hour on one of 2 cores, other work on the other; the full form some 5 hours (not run)
Expect      distance 0.019 ± 0.010 more with p = 1 than p = 2; p = -1 and `data` are worse (docs/theory.md)
            Loss after 500 steps 0.40 with p = 2, 0.25 with p = 1 (configs/comparison.py)
Variants    configs/ablation_weight.py:full           2,500 steps and 1,000 images in place of 600 and 400
            configs/ablation_weight.py:photographs    p = 1 and p = 2 on CIFAR-10, five seeds, 60,000 images each, by the network
                                                      of configs/cifar10_small.py with half its channels; times are uniform, as
                                                      the paper's are (--config.data.source=arrays --config.data.path=FILE.npz)

Rows differ in the weight alone: lambda(t) = t^-p of the paper's family, p = 2 being rectified flow and the baseline, and two
weights by name.
"""

from ml_collections import ConfigDict

from configs import cifar10_small, common

_PHOTOGRAPHS = 60_000


def get_config(variant: str = "") -> ConfigDict:
    """The grid, in its small or its full form, or two rows of it on photographs."""
    if variant not in ("", "full", "photographs"):
        raise ValueError(f"no variant {variant!r} of ablation_weight, expected full, photographs or none")
    of = lambda **fields: {"changes": {"objective": common.given(common.path_constrained(**fields))}}  # noqa: E731
    if variant == "photographs":
        cells = {"p = 2, rectified flow": of(weight_exponent=2.0), "p = 1, ScoreFlow": of(weight_exponent=1.0)}
        config = common.study(_photographs(), "ablation_weight_photographs", "p = 2, rectified flow", cells)
        config.study.seeds = (0, 1, 2, 3, 4)
        return config
    config = common.digits_study(variant == "full")
    cells = {
        "p = 2, rectified flow": of(weight_exponent=2.0),
        "p = 1, ScoreFlow": of(weight_exponent=1.0),
        "p = 0, noise prediction": of(weight_exponent=0.0),
        "p = -1": of(weight_exponent=-1.0),
        "weight data": of(weight="data"),
        "weight logit_normal": of(weight="logit_normal"),
    }
    return common.study(config, f"ablation_weight{variant and '_full'}", "p = 2, rectified flow", cells)


def _photographs() -> ConfigDict:
    """What both rows share: few images, so that an average of few steps; figures that do not want thousands of images."""
    config = cifar10_small.get_config()
    steps = _PHOTOGRAPHS // config.train.batch_size
    config.times = common.times("uniform")
    config.model.base_channels = 32
    config.optimizer.warmup_steps = 100
    config.train.update(
        num_steps=steps,
        checkpoint_every=steps,
        log_every=steps // 4,
        sample_every=0,
        ema_decay=0.995,
        tensorboard=False,
    )
    config.solver.update(method="midpoint", num_steps=20, rtol=1e-3, atol=1e-3)
    config.eval.update(
        split="test",
        generation={"images": 1000, "keep_images": False},
        reversibility={"on": False},
        residual={"on": True, "images": 500, "noises": 1, "times": 11},
        straightness={"on": True, "images": 100, "steps": (1, 4)},
        likelihood={"by": "ode", "images": 100},
    )
    return config
