"""The paper's CIFAR-10 experiment: class-conditional ScoreFlow (section 4.1, table 1).

Command     python main.py --config=configs/cifar10.py --mode=train --config.model.dtype=bfloat16
Hardware    one accelerator; 800,000 steps of 128 images take days on one (computed: 65 GFLOP an image, 6.7 EFLOP in all)
Expect      published: FID 2.29, IS 9.96, NFE 127 (50,000 images, RK45 at 1e-5). Not yet reproduced here.
            Loss 0.63 at first (measured); the small network of configs/cifar10_small.py has 0.155 after a million images
Data        through tensorflow-datasets, downloaded once (170 MB); or an npz of train_images, uint8, train_labels, whole numbers,
            test_images and test_labels: --config.data.source=arrays --config.data.path=cifar10.npz
Variants    configs/cifar10.py:smoke    a few steps of a tiny network on the same data

The network is the published one (DDPM++, 61,804,419 parameters) with the conditioning of eq. 21 (66,931,331 in all).
Iterations, batch, learning rate, dropout and EMA are not stated in the paper; they are rectified flow's, whose FID of 2.58 the
paper compares with.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or its `smoke` variant."""
    return common.variant(common.base("cifar10"), variant)
