"""DDPM on CIFAR-10 (Ho et al. 2020, arXiv:2006.11239): 1,000 discrete steps of noise, undone one by one.

Command     python main.py --config=configs/ddpm.py --mode=train
            python main.py --config=configs/ddpm.py --mode=import --source=checkpoint.pth --workdir=DIR
            (then --mode=sample, eval; --config.sampler.name=ddim for the deterministic chain, ode for an ODE between the steps)
Hardware    one TPU v4 board or 4 GPUs of 40 GB; not on a laptop, where the variants belong
Expect      published: FID 3.17 at 1,000 network calls (with the smaller DDPM network); not yet measured here
            Loss 1.00 at first (measured); 0.082 of `:digits` after 1,000 steps (dequantized, configs/comparison.py)
Data        CIFAR-10 by tensorflow-datasets: see docs/usage.md. To import and sample takes none
Variants    configs/ddpm.py:digits        handwritten digits, class-conditional, minutes on a laptop
            configs/ddpm.py:checkerboard  and :moons, :gaussians: points of the plane, under a minute
            configs/ddpm.py:smoke         a few steps of a tiny network, in seconds

The network, score_sde's DDPM++ of 61,804,419 parameters, predicts the noise at the 1,000 times of the chain and at no other. So
likelihoods, encoding and translation, which solve an ODE, rest on its own interpolation between them.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or a variant of it."""
    config = common.system("ddpm", variant)
    common.use_score_sde(config, common.path("ddpm", num_scales=1000, beta_first=1e-4, beta_last=2e-2))
    config.times = common.times("grid", count=1000, with_end=True)
    # 999 steps from noise to the last level, and the expected data there: a thousand network calls.
    config.sampler.update(name="ancestral", num_steps=999, variance="forward")
    return common.system_variant(config, variant)
