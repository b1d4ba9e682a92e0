"""ImageNet at 32x32, unconditional, for samples and likelihoods.

Command     python main.py --config=configs/imagenet32.py --mode=train --config.model.dtype=bfloat16
Hardware    accelerators, for days
Expect      published for stochastic interpolants: 3.48 bits/dim, FID 8.49. Not yet reproduced here.
            Loss at first (1 + m) / 2, m the mean square of the data in [-1, 1]: 0.63 of CIFAR-10. The end is not measured
Data        imagenet_resized/32x32 of tensorflow-datasets (1,281,167 images, 1,000 classes, 50,000 to validate)
Variants    configs/imagenet32.py:smoke    a few steps of a tiny network on the same data

Published likelihoods are mostly of an older set, resized otherwise: --config.data.name=downsampled_imagenet/32x32. Figures of the
two do not compare. Trained dequantized, as likelihoods need it. The classes are not used; --config.model.conditional=True does.
The network is the DDPM++ of configs/cifar10_unconditional.py (61,804,419 parameters).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or its `smoke` variant."""
    config = common.base("imagenet32")
    config.data.update(name="imagenet_resized/32x32", test_split="validation", num_classes=1000, dequantize=True)
    config.model.update(conditional=False, dropout=0.0)
    config.eval.likelihood.by = "ode"
    return common.variant(config, variant)
