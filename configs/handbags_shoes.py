"""Handbags (t = 0) to shoes (t = 1) by the plain ODE: no noise, two data sets.

Command     python main.py --config=configs/handbags_shoes.py --mode=train
            --config.data.path=DIR/edges2shoes --config.data.base.path=DIR/edges2handbags
            (then --mode=translate with the same two paths goes both ways)
Hardware    an accelerator (then add --config.model.dtype=bfloat16); times are not measured
Expect      published for stochastic interpolants: FID 15.87 of the translations. Not yet reproduced here.
            Loss at first half of the mean square between two pictures, one of each set; what it falls to is not measured
Data        pix2pix's edges2shoes (50,025 pictures) and edges2handbags (138,767), whose right halves are the photographs;
            for folders of plain photographs add --config.data.framing=crop
Variants    configs/handbags_shoes.py:128      at 128x128
            configs/handbags_shoes.py:smoke    a few steps of a tiny network at 32x32 on the same data

The network (39,390,339 parameters at 64x64) and what this follows are those of configs/celeba_male_female.py.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment at 64x64, or its `128` or `smoke` variant."""
    config = common.use_size(common.base("handbags_shoes"), 128 if variant == "128" else 64)
    config.data.update(source="image_folder", name="edges2shoes", framing="right_half")
    common.between(config, name="edges2handbags", path=placeholder(str))
    return common.variant(config, "" if variant == "128" else variant)
