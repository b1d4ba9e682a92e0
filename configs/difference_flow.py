"""The score-difference flow (Weber 2023, arXiv:2304.12906): particles go from noise to the data by a difference of scores.

Command     python main.py --config=configs/difference_flow.py --mode=difference-flow
Hardware    a laptop: 2 CPU cores, under 1 GB
Time        seconds; nothing is trained. With --config.difference.scores=classifier, a GAN, about three minutes of digits
Expect      digits: a support vector classifier and the nearest training digit agree on all of them, but they lie half as far
            from it as held-out digits do: mixtures of a few neighbours. By a GAN's scores 93 %, and as far as held-out ones.
            checkerboard: the divergence of particles from data, smoothed by 0.1, from 4.0 nats to nothing
Variants    configs/difference_flow.py:digits        handwritten digits, as without a variant
            configs/difference_flow.py:checkerboard  and :moons, :gaussians: points of the plane
            configs/difference_flow.py:smoke         a few steps of a few particles

--mode=difference-flow works with every config; learned scores are those of the run in its workdir: after --mode=train, with
--config.difference.scores=learned --config.difference.target=3. Here the network would be one of 782,529 parameters.
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
