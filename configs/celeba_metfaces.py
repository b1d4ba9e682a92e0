"""The paper's CelebA and MetFaces experiment at 256x256: faces (0) and painted or sculpted ones (1) as one two-class set.

Command     python main.py --config=configs/celeba_metfaces.py --mode=train --config.data.dir=DIR
Hardware    as configs/afhq.py
Expect      pictures like the paper's figure 4; it gives no numbers. Not yet reproduced here.
Data        DIR/celeba_metfaces/train/{celeba,metfaces} and DIR/celeba_metfaces/test/...: CelebA-HQ and MetFaces
Variants    configs/celeba_metfaces.py:smoke    a few steps of a tiny network at 32x32 on the same data

The network (71,045,379 parameters) and all that the paper does not state are those of configs/afhq.py.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or its `smoke` variant."""
    config = common.use_256(common.base("celeba_metfaces"))
    config.data.update(source="image_folder", name="celeba_metfaces", num_classes=2)
    return common.variant(config, variant)
