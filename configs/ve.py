"""The variance-exploding SDE on CIFAR-10 (Song et al. 2021, arXiv:2011.13456): NCSN++ cont. of the paper's table 2.

Command     python main.py --config=configs/ve.py --mode=train
            python main.py --config=configs/ve.py --mode=import --source=checkpoint.pth --workdir=DIR
            (then --mode=sample, eval; --config.sampler.name=ode for the probability-flow ODE)
Hardware    one TPU v4 board or 4 GPUs of 40 GB; not on a laptop, where the variants belong
Expect      published: FID 2.38 by predictor-corrector at 2,000 network calls, 5.38 by the ODE at 176; not yet measured here
            Loss 1.00 at first (measured); 0.322 of `:digits` after 1,000 steps (dequantized, configs/comparison.py)
Data        CIFAR-10 by tensorflow-datasets: see docs/usage.md. To import and sample takes none
Variants    configs/ve.py:digits        handwritten digits, class-conditional, minutes on a laptop
            configs/ve.py:checkerboard  and :moons, :gaussians: points of the plane, under a minute
            configs/ve.py:smoke         a few steps of a tiny network, in seconds

NCSN++ of 62,758,915 parameters on data in [0, 1], to which the published noise levels 0.01 and 50 belong; the path's, of data in
[-1, 1], are twice that. It predicts the score and is told the noise level. The variants take the other systems' network, which
predicts the noise and sees its input scaled to order 1.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or a variant of it."""
    config = common.system("ve", variant)
    published = variant in ("", "smoke")
    largest = 100.0 if published else 20.0  # about the largest distance of two examples (Song and Ermon 2020)
    path = common.path("ve", sigma_min=0.02 if published else 0.01, sigma_max=largest, t_max=1.0 - 1e-5)
    common.use_score_sde(config, path)
    # The corrector's steps are as large as the score is small. In the plane it is small inside a density, and they leave it.
    config.sampler.update(name="reverse_diffusion" if variant in common.TOYS else "predictor_corrector", num_steps=1000)
    if not published:
        config.parameterization.update(told="t", scale_input=True)
        return common.system_variant(config, variant)
    config.parameterization.update(predicts="score", told="sigma", unit_range=True)
    config.model.update(
        fir_kernel=(1.0, 3.0, 3.0, 1.0),
        progressive_input="residual",
        embedding="fourier",
        time_scale=1.0,
        scale_by_sigma=True,
        sigma_min=0.01,
        sigma_max=50.0,
        centered=False,
    )
    return common.system_variant(config, variant)
