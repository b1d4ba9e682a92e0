"""ScoreFlow on scikit-learn's 1,797 handwritten digits: the whole method in minutes, with nothing to download.

Command     python main.py --config=configs/digits.py --mode=train
            (then --mode=sample, translate, interpolate, eval)
Hardware    a laptop: 2 CPU cores, under 2 GB
Time        100 seconds of training on 2 idle cores, 150 for all else
Expect      loss, means of 50 steps: 0.66 at first, 0.28 after 200 steps, 0.23 to 0.24 at the end; a support vector classifier
            trained on the real digits recognizes about 98 % of the generated ones
Variants    configs/digits.py:full     2,500 steps, not dequantized, solved to 1e-5; 1,000 images in place of 500
            configs/digits.py:smoke    a few steps of a tiny network, in seconds

Dequantized, so that bits/dim mean something.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or its `full` or `smoke` variant.

    Raises:
        ValueError: another variant.
    """
    config = common.use_digits(common.base("digits"))
    if variant == "full":
        config.name = "digits_full"
        return config
    if variant == "smoke":
        return common.variant(config, variant)
    if variant:
        raise ValueError(f"no variant {variant!r} of digits, expected full, smoke or none")
    config.data.dequantize = True
    config.train.update(num_steps=800, sample_every=0)
    # 1e-5 takes three times the calls of this network, and changes distances by a fifth of a per cent.
    config.solver.update(rtol=1e-4, atol=1e-4)
    # Few numbers of images: what is solved for as many is compiled once.
    config.eval.update(
        batch_size=100,
        generation={"images": 500},
        translation={"images": 1},
        reversibility={"tolerances": (1e-3, 1e-4)},
        likelihood={"images": 100},
    )
    return config
