"""The paper's AFHQ experiment at 256x256: cat (0), dog (1) and wild (2), to translate between (section 4.2, figure 5).

Command     python main.py --config=configs/afhq.py --mode=train --config.data.path=DIR
Hardware    accelerators; a step of 8 images takes 16 GB at the most (docs/performance.md), so 8 of them for a batch of 64
Expect      pictures like the paper's figures 4 to 6; it gives no numbers. Not yet reproduced here.
            Loss at first (1 + m) / 2, m the mean square of the data in [-1, 1]: 0.62 (41 pictures). The end is not measured
Data        DIR holds train/{cat,dog,wild} and test/... or val/..., as StarGAN v2's download.sh makes it; or a pack of it
Variants    configs/afhq.py:smoke    a few steps of a tiny network at 32x32 on the same data

The network, of 71,045,891 parameters, is DDPM++ as the paper says: positional embedding of 999 t, no FIR, no progressive paths,
no division by sigma.
What it does not state follows RectifiedFlow's 256x256 configs (channel multipliers, 2 blocks, attention at 16, no dropout,
batch 64, EMA 0.999, Adam at 2e-4), whose own networks are NCSN++ and for import: configs/rectified_flow_256.py.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or its `smoke` variant."""
    config = common.use_256(common.base("afhq"))
    config.data.update(source="image_folder", name="afhq", num_classes=3)
    return common.variant(config, variant)
