"""Ablation on digits: how training times are drawn, under the paper's weight and under rectified flow's.

Command     python main.py --config=configs/ablation_times.py --mode=study
            (stopped, it goes on; --config.study.seeds="(0, 1, 2, 3, 4)" adds seeds)
Hardware    a laptop: 2 CPU cores, under 2 GB
Time        an hour on one of 2 cores, other work on the other; the full form some 5 hours (not run)
Expect      distance 0.049 ± 0.013 more if u-shaped; all but low discrepancy move the error along t (docs/theory.md)
            Loss after 500 steps 0.40 with p = 2, 0.25 with p = 1 (configs/comparison.py)
Variants    configs/ablation_times.py:full    2,500 steps and 1,000 images in place of 600 and 400

The distribution of t and the weight multiply: both decide how much a time counts, the distribution also how noisily.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The grid, in its small or its full form."""
    if variant not in ("", "full"):
        raise ValueError(f"no variant {variant!r} of ablation_times, expected full or none")
    config = common.digits_study(variant == "full")

    def of(p: float, name: str, **fields: object) -> dict[str, object]:
        objective = common.given(common.path_constrained(weight_exponent=p))
        return {"changes": {"objective": objective, "times": common.given(common.times(name, **fields))}}

    cells = {
        "p = 2, uniform": of(2.0, "uniform"),
        "p = 2, low discrepancy": of(2.0, "uniform", low_discrepancy=True),
        "p = 2, logit-normal": of(2.0, "logit_normal"),
        "p = 2, u-shaped": of(2.0, "u_shaped"),
        "p = 1, uniform": of(1.0, "uniform"),
        "p = 1, low discrepancy": of(1.0, "uniform", low_discrepancy=True),
    }
    return common.study(config, f"ablation_times{variant and '_full'}", "p = 2, uniform", cells)
