"""ScoreFlow on scikit-learn's 1,797 handwritten digits: the whole method in minutes, with nothing to download.

Command     python main.py --config=configs/digits.py --mode=train
            (then --mode=sample, translate, interpolate, eval)
Hardware    a laptop: 2 CPU cores, under 2 GB
Time        about 3 minutes of training on 2 cores
Expect      a support vector classifier trained on the real digits recognizes about 98 % of the generated ones
Variants    configs/digits.py:smoke    a few steps of a tiny network, in seconds
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or its `smoke` variant."""
    return common.variant(common.use_digits(common.base("digits")), variant)
