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
    config = common.base("digits")
    config.data.update(source="digits", name="digits", shape=(8, 8, 1), levels=17, flip=False)
    config.model.update(
        base_channels=32, channel_multipliers=(1, 2), num_blocks=1, attention_resolutions=(), dropout=0.0
    )
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100)
    config.train.update(
        batch_size=64, num_steps=2500, ema_decay=0.995, sample_every=500, checkpoint_every=500, log_every=50
    )
    # Inception means nothing on 8x8 digits: distances are between pixels, recognition is a classifier's.
    config.eval.update(
        extractor="pixels", classifier=True, num_images=1000, translation=True, translation_images=2, likelihood=True
    )
    config.eval.update(likelihood_images=355, truncation=True, audit=True)
    return common.variant(config, variant)
