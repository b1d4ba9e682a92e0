"""The score-difference flow (Weber 2023, arXiv:2304.12906): particles moved from noise to the data by a difference of kernel scores.

Command     python main.py --config=configs/difference_flow.py --mode=difference-flow
Hardware    a laptop: 2 CPU cores, under 1 GB
Time        under a minute for the digits, seconds in the plane; nothing is trained
Expect      TODO
Variants    configs/difference_flow.py:digits        handwritten digits, as without a variant
            configs/difference_flow.py:checkerboard  and :moons, :gaussians: points of the plane
            configs/difference_flow.py:smoke         a few steps of a few particles
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or a variant of it."""
    config = common.system("difference_flow", variant if variant in common.TOYS else "digits")
    if variant in common.TOYS:
        config.difference.update(num_particles=2000, num_data=10_000, num_steps=200, sigma_end=0.1, kl_bandwidth=0.1)
    else:
        # Weak noise would end on the training digits themselves; so the last bandwidth is that at which neighbours still mix.
        config.difference.update(num_steps=400, step_size=0.1, jitter=True, sigma_end=0.8, kl_bandwidth=1.0)
    return common.system_variant(config, variant)
