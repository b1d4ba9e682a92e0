"""Any image data set of tensorflow-datasets, by name.

Command     python main.py --config=configs/tfds_images.py --mode=train --config.data.name=oxford_flowers102
Hardware    as configs/image_folder.py
Expect      as configs/image_folder.py
Data        its images at any size are cropped and resized to 64x64; its classes are the feature "label", or the one that
            --config.data.label names; --config.data.train_split and test_split name its splits, such as "train[:90%]"
Variants    configs/tfds_images.py:128, :256      at 128x128, at 256x256
            configs/tfds_images.py:smoke          a few steps of a tiny network at 32x32 on the same data

The network is that of configs/image_folder.py (with ten classes 42,678,659 parameters at 64x64).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment at 64x64, or its `128`, `256` or `smoke` variant."""
    size = int(variant) if variant in ("128", "256") else 64
    config = common.use_size(common.base("tfds_images"), size)
    common.find_classes(config)
    return common.variant(config, "" if variant in ("128", "256") else variant)
