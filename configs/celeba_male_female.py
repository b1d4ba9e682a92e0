"""Male faces (t = 0) to female ones (t = 1) of CelebA by the plain ODE: no noise, two data sets.

Command     python main.py --config=configs/celeba_male_female.py --mode=train
            (then --mode=translate goes both ways)
Hardware    an accelerator (then add --config.model.dtype=bfloat16); times are not measured
Expect      published for stochastic interpolants: FID 16.39 of the translations. Not yet reproduced here.
            Loss at first half of the mean square between two pictures, one of each set; what it falls to is not measured
Data        CelebA through tensorflow-datasets: its 178x218 pictures cropped to 178x178 and resized; attribute Male
Variants    configs/celeba_male_female.py:128      at 128x128
            configs/celeba_male_female.py:smoke    a few steps of a tiny network at 32x32 on the same data

An experiment of the kind of Albergo and Vanden-Eijnden's *Building Normalizing Flows with Stochastic Interpolants*
(arXiv:2209.15571), between two densities that are both data, with this project's path and loss and a DDPM++ network of our
choice (39,390,339 parameters at 64x64).
"""

from ml_collections import ConfigDict

from configs import common

NOT_MALE, MALE = 0, 1


def get_config(variant: str = "") -> ConfigDict:
    """The experiment at 64x64, or its `128` or `smoke` variant."""
    config = common.use_size(common.base("celeba_male_female"), 128 if variant == "128" else 64)
    config.data.update(name="celeb_a", label="attributes/Male", classes=(NOT_MALE,))
    common.between(config, classes=(MALE,))
    return common.variant(config, "" if variant == "128" else variant)
