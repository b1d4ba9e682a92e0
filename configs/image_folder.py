"""Your own pictures: a folder, in one line.

Command     python main.py --config=configs/image_folder.py --mode=train --config.data.path=DIR
            (then --mode=sample, translate, interpolate, figures, eval with the same path)
Hardware    an accelerator (then add --config.model.dtype=bfloat16 where it computes in that); a laptop for a trial: the smoke
            variant. Times are not measured
Expect      what your pictures look like after some 100,000 steps; --mode=eval says how near.
            Loss at first (1 + m) / 2, m the mean square of the data in [-1, 1]: 0.6 to 0.7 of photographs
Data        DIR/<class>/<pictures>: the sub-folders are the classes; or DIR/<pictures>: no classes; or either below DIR/train
            and DIR/test. Without those a tenth of the files is held out, by their names. Any format, size and colour mode.
            DIR may be a zip, and have a dataset.json that says the classes. Of 12 bits in 16: --config.data.white_level=4095
            Faster from a pack: --mode=pack --out=PACK, once, then --config.data.path=PACK
Variants    configs/image_folder.py:128, :256      at 128x128, at 256x256 (the default is 64x64)
            configs/image_folder.py:smoke          a few steps of a tiny network at 32x32 on the same data

The number of classes is found in the folder (with three classes 42,675,075 parameters at 64x64); the sizes are our choice.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment at 64x64, or its `128`, `256` or `smoke` variant."""
    size = int(variant) if variant in ("128", "256") else 64
    config = common.use_size(common.base("image_folder"), size)
    config.data.update(source="image_folder", name="image_folder")
    common.find_classes(config)
    return common.variant(config, "" if variant in ("128", "256") else variant)
