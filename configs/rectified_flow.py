"""Rectified flow on CIFAR-10, class-conditional (Liu et al. 2022, arXiv:2209.03003): ScoreFlow's loss with p = 2, its eq. 18.

Command     python main.py --config=configs/rectified_flow.py --mode=train
            (then --mode=sample, eval; --mode=reflow makes the flow straighter, config.reflow)
Hardware    one TPU v4 board or 4 GPUs of 40 GB; not on a laptop, where the variants belong
Expect      FID 2.58 at 127 network calls is published for the unconditional network; not yet measured here
            Loss 1.25 at first (measured); 0.369 of `:digits` after 1,000 steps (dequantized, configs/comparison.py)
Data        CIFAR-10 by tensorflow-datasets: see docs/usage.md
Variants    configs/rectified_flow.py:digits        handwritten digits, minutes on a laptop
            configs/rectified_flow.py:checkerboard  and :moons, :gaussians: points of the plane, under a minute
            configs/rectified_flow.py:smoke         a few steps of a tiny network, in seconds

DDPM++ of 66,931,331 parameters.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or a variant of it."""
    config = common.system("rectified_flow", variant)
    config.objective.weight_exponent = 2.0
    return common.system_variant(config, variant)
