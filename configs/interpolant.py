"""Stochastic interpolants on CIFAR-10 (Albergo and Vanden-Eijnden 2022, arXiv:2209.15571; with a latent 2023, arXiv:2303.08797).

Command     python main.py --config=configs/interpolant.py --mode=train
            --config.path.name=linear or variance_preserving      another interpolant
            --config.path.name=learned                            one that shortens its own path while the network learns
            --config.path.latent=sine                             with noise on the way, and a second output that predicts it
            --config.train.coupling=optimal_transport             each batch's noise permuted to be near its data
            (then --mode=sample, eval; --config.sampler.name=euler_maruyama for an SDE, its strength config.sampler.noise)
Hardware    one TPU v4 board or 4 GPUs of 40 GB; not on a laptop, where the variants belong
Expect      published: FID 10.27 and 2.99 bits/dim, unconditional; not yet measured here
            Loss 1.53 at first (measured); 0.581 of `:digits` after 1,000 steps (dequantized, configs/comparison.py)
Data        CIFAR-10 by tensorflow-datasets: see docs/usage.md
Variants    configs/interpolant.py:digits        handwritten digits, minutes on a laptop
            configs/interpolant.py:checkerboard  and :moons, :gaussians: points of the plane, under a minute
            configs/interpolant.py:smoke         a few steps of a tiny network, in seconds

The trigonometric interpolant, as that paper's CIFAR-10 run; DDPM++ of 66,931,331 parameters. Between two data sets instead of
from noise: config.data.base, as configs/cat_to_dog.py, where the latent makes a score and so an SDE possible.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or a variant of it."""
    config = common.system("interpolant", variant)
    config.path = common.path("trigonometric")
    config.objective = common.objective("interpolant", path_rate=1.0)
    config.sampler.update(num_steps=500, schedule="sigma")
    return common.system_variant(config, variant)
