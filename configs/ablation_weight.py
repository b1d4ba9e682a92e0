"""Ablation on digits: the weight lambda(t) of the path-constrained loss. Does the path constraint help, and where along t?

Command     python main.py --config=configs/ablation_weight.py --mode=study
            (stopped, it goes on; --config.study.seeds="(0, 1, 2, 3, 4)" adds seeds)
Hardware    a laptop: 2 CPU cores, under 2 GB
Time        an hour on one of 2 cores, other work on the other; the full form some 5 hours (not run)
Expect      distance 0.019 ± 0.010 more with p = 1 than p = 2; p = -1 and `data` are worse (docs/theory.md)
            Loss after 500 steps 0.40 with p = 2, 0.25 with p = 1 (configs/comparison.py)
Variants    configs/ablation_weight.py:full    2,500 steps and 1,000 images in place of 600 and 400

Rows differ in the weight alone: lambda(t) = t^-p of the paper's family, p = 2 being rectified flow and the baseline, and two
weights by name.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The grid, in its small or its full form."""
    if variant not in ("", "full"):
        raise ValueError(f"no variant {variant!r} of ablation_weight, expected full or none")
    config = common.digits_study(variant == "full")
    of = lambda **fields: {"changes": {"objective": common.given(common.path_constrained(**fields))}}  # noqa: E731
    cells = {
        "p = 2, rectified flow": of(weight_exponent=2.0),
        "p = 1, ScoreFlow": of(weight_exponent=1.0),
        "p = 0, noise prediction": of(weight_exponent=0.0),
        "p = -1": of(weight_exponent=-1.0),
        "weight data": of(weight="data"),
        "weight logit_normal": of(weight="logit_normal"),
    }
    return common.study(config, f"ablation_weight{variant and '_full'}", "p = 2, rectified flow", cells)
