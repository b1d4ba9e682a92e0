"""The paper's CIFAR-10 experiment with score_sde's deep network: 8 blocks at each resolution instead of 4.

Command     python main.py --config=configs/cifar10_deep.py --mode=train --config.model.dtype=bfloat16
Hardware    as configs/cifar10.py, at 1.8 times the computation
Expect      nothing published for ScoreFlow; score_sde's deep sub-VP network reached 2.99 bits/dim and an FID of 2.92
            Loss as of configs/cifar10.py
Variants    configs/cifar10_deep.py:smoke

The unconditional network has the published 106,632,579 parameters; this one is class-conditional (eq. 21): 115,436,675.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or its `smoke` variant."""
    config = common.base("cifar10_deep")
    config.model.num_blocks = 8
    return common.variant(config, variant)
