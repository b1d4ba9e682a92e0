"""The paper's unconditional CIFAR-10 experiment (section 4.1, table 1): one drift for all classes.

Command     python main.py --config=configs/cifar10_unconditional.py --mode=train --config.model.dtype=bfloat16
Hardware    as configs/cifar10.py
Expect      published: FID 2.58, IS 9.72, NFE 124 (50,000 images, RK45 at 1e-5). Not yet reproduced here.
            Loss 0.63 at first (measured); the small network of configs/cifar10_small.py has 0.155 after a million images
Variants    configs/cifar10_unconditional.py:smoke

The network is the published unconditional DDPM++ of 61,804,419 parameters. It has no classes to translate between.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or its `smoke` variant."""
    config = common.base("cifar10_unconditional")
    config.model.conditional = False
    return common.variant(config, variant)
