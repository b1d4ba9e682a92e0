"""The sub-VP SDE on CIFAR-10 (Song et al. 2021, arXiv:2011.13456, appendix B): the likelihoods' favourite of that paper.

Command     python main.py --config=configs/sub_vp.py --mode=train
            python main.py --config=configs/sub_vp.py --mode=import --source=checkpoint.pth --workdir=DIR
            (then --mode=sample, eval; --config.sampler.name=ode for the probability-flow ODE)
Hardware    one TPU v4 board or 4 GPUs of 40 GB; not on a laptop, where the variants belong
Expect      published: FID 2.61 by predictor-corrector, 3.16 by the ODE at 146 network calls, 2.99 bits/dim of the deep
            network (--config.model.num_blocks=8); not yet measured here
            Loss 1.00 at first (measured); 0.139 of `:digits` after 1,000 steps (dequantized, configs/comparison.py)
Data        CIFAR-10 by tensorflow-datasets: see docs/usage.md. To import and sample takes none
Variants    configs/sub_vp.py:digits        handwritten digits, class-conditional, minutes on a laptop
            configs/sub_vp.py:checkerboard  and :moons, :gaussians: points of the plane, under a minute
            configs/sub_vp.py:smoke         a few steps of a tiny network, in seconds

The network predicts the noise and is told 999 (1 - t), as score_sde's checkpoints; 61,804,419 parameters.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or a variant of it."""
    config = common.system("sub_vp", variant)
    common.use_score_sde(config, common.path("sub_vp", beta_min=0.1, beta_max=20.0, t_max=0.999))
    return common.system_variant(config, variant)
