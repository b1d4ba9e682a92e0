"""The paper's CelebA and MetFaces experiment at 256x256: faces (0) and painted or sculpted ones (1) as one two-class set.

Command     python main.py --config=configs/celeba_metfaces.py --mode=train --config.data.parts.metfaces.path=DIR
Hardware    as configs/afhq.py
Expect      pictures like the paper's figure 4; it gives no numbers. Not yet reproduced here.
            Loss at first (1 + m) / 2, m the mean square of the data in [-1, 1]: 0.68 (59 pictures). The end is not measured
Data        MetFaces (1,336 pictures) from a folder; CelebA-HQ (30,000) through tensorflow-datasets, or from a folder too:
            --config.data.parts.celeba.source=image_folder --config.data.parts.celeba.path=DIR
Variants    configs/celeba_metfaces.py:celeba    CelebA (162,770 pictures, 178x178 of each enlarged) in place of CelebA-HQ
            configs/celeba_metfaces.py:smoke     a few steps of a tiny network at 32x32 on the same data

Each picture is drawn equally often, so about one in 25 is of MetFaces (29,000 and some 1,200 are trained on; the paper does not
say); --config.data.sampling=balanced draws each class equally often, a picture of MetFaces then 24 times as often as another.

The network (71,045,379 parameters) and all that the paper does not state are those of configs/afhq.py.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common

_CELEBA = {
    "celeb_a_hq/256": {"train_split": "train[:29000]", "test_split": "train[29000:]"},
    "celeb_a": {"train_split": "train", "test_split": "test"},
}


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or its `celeba` or `smoke` variant."""
    config = common.use_256(common.base("celeba_metfaces"))
    name = "celeb_a" if variant == "celeba" else "celeb_a_hq/256"
    config.data.update(source="merged", name="celeba_metfaces", num_classes=2)
    config.data.parts = ConfigDict(
        {
            "celeba": {"source": "tfds", "name": name, "path": placeholder(str), **_CELEBA[name]},
            "metfaces": {"source": "image_folder", "name": "metfaces", "path": placeholder(str)},
        }
    )
    return common.variant(config, "" if variant == "celeba" else variant)
