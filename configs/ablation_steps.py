"""Ablation on digits: eq. 19's x(t) by one step, as algorithm 1, or by K steps of the drift itself.

Command     python main.py --config=configs/ablation_steps.py --mode=study
            (stopped, it goes on; --config.study.seeds="(0, 1, 2, 3, 4)" adds seeds)
Hardware    a laptop: 2 CPU cores, under 2 GB
Time        35 minutes of one core a seed, about an hour for three on 2 idle cores; the full form some 5 hours (not run)
Expect      K steps carry every digit to the mean of its class: distance 5 to 10 in place of 0.5 (docs/theory.md)
            Loss of one step 0.25 after 500 steps (configs/comparison.py)
Variants    configs/ablation_steps.py:full    2,500 steps and 1,000 images in place of 600 and 400
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The grid, in its small or its full form."""
    if variant not in ("", "full"):
        raise ValueError(f"no variant {variant!r} of ablation_steps, expected full or none")
    config = common.digits_study(variant == "full")
    of = lambda **fields: {"changes": {"objective": common.given(common.path_constrained(**fields))}}  # noqa: E731
    cells = {
        "one step, algorithm 1": of(),
        "K = 1, Euler": of(num_steps=1),
        "K = 2, Euler": of(num_steps=2),
        "K = 4, Euler": of(num_steps=4),
        "K = 2, Heun": of(num_steps=2, method="heun"),
    }
    return common.study(config, f"ablation_steps{variant and '_full'}", "one step, algorithm 1", cells)
