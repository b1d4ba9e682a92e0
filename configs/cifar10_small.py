"""CIFAR-10 on a laptop: 5,462,284 parameters on folded images, class-conditional, in bfloat16.

Command     python main.py --config=configs/cifar10_small.py --mode=train
Hardware    2 CPU cores with bfloat16 of their own: 99 images/s when idle, 17 hours for 6 million images. Computed, not measured:
            a step is 1.9 GFLOP an image, so a GPU of 1,000 TFLOP/s makes 6 million in 20 minutes at a hundredth of that rate
Expect      loss 0.234 after 51,000 images (mean of 300 steps), 0.187 after 100,000, 0.170 after 200,000, 0.165 after 300,000,
            0.159 after 500,000, 0.155 after 1,000,000, 0.145 after 2,240,000 over the last 320,000 of which the rate fell to 0;
            FID of 2,500 images to the test split, in 20 midpoint steps, 138 after 100,000, 86 after 300,000 and 71 after 500,000;
            of 10,000 images by the ODE to the training split 32.6 at the end (docs/results.md)
Data        as configs/cifar10.py
Variants    configs/cifar10_small.py:smoke       a few steps of a tiny network, folded and in bfloat16 too
            configs/cifar10_small.py:flow_map    jumps beside the ODE, 224,000 images, up to 56 a second; learned from a run by
                                                 --config.objective.teacher=WORKDIR, the rate falling over the second half; FID in
                                                 1, 2 and 4 calls 59.4, 36.7, 33.1, by the ODE 32.6

Patches of 2x2 pixels are folded into channels, 32x32x3 to 16x16x12: a quarter of the positions, four times the speed. The rate of
learning stays what it is after the warm-up, so that --config.train.num_steps can make a run longer. Dequantized, so that bits/dim
mean something. Rate and time_scale were chosen by configs/ablation_recipe.py.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or a variant of it."""
    mapped = variant == "flow_map"
    config = common.base("cifar10_small_flow_map" if mapped else "cifar10_small")
    config.objective = common.path_constrained(weight_exponent=2.0)
    config.times = common.times("logit_normal", mean=0.3, std=1.0)
    config.data.update(dequantize=True, flip=True)
    config.model.update(
        base_channels=64,
        channel_multipliers=(1, 2, 2),
        num_blocks=1,
        attention_resolutions=(8,),
        dropout=0.0,
        patch=2,
        time_scale=4.0,
    )
    config.optimizer.update(learning_rate=1e-3, warmup_steps=1000)
    config.train.update(batch_size=64, num_steps=93_750, ema_decay=0.9995)
    if mapped:  # as docs/theory.md "Flow maps" found best on digits
        config.objective = common.objective("flow_map", diagonal=0.25)
        config.model.two_times = True
        config.train.update(num_steps=3500, cooldown_steps=1750)
    config = common.variant(config, "" if mapped else variant)
    config.model.dtype = "bfloat16"
    return config
