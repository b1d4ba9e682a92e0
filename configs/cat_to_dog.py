"""CIFAR-10's cats (t = 0) to dogs (t = 1) by the plain ODE: no noise, x1 and x0 are both data.

Command     python main.py --config=configs/cat_to_dog.py --mode=train
            (then --mode=translate goes both ways)
Hardware    one accelerator; as many steps as configs/cifar10.py take an eighth of its time (computed)
Expect      no published figures. Not yet trained to the end here.
            Loss 0.25 at first (measured): half of the mean square between a cat and a dog
Data        classes 3 and 5 of CIFAR-10 through tensorflow-datasets, 5,000 training images each
Variants    configs/cat_to_dog.py:smoke    a few steps of a tiny network on the same data

The paper notes that the data at t = 1 "can follow arbitrary data distribution"; here those at t = 0 do too, drawn independently.
The path and the loss stay as they are. There is no noise, hence no score, no likelihood and no interpolation of latents. The
network is the unconditional DDPM++ of configs/cifar10_unconditional.py (61,804,419 parameters).
"""

from ml_collections import ConfigDict

from configs import common

CAT, DOG = 3, 5


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or its `smoke` variant."""
    config = common.base("cat_to_dog")
    config.data.classes = (DOG,)
    common.between(config, classes=(CAT,))
    config.train.update(num_steps=100_000, ema_decay=0.9999)
    return common.variant(config, variant)
