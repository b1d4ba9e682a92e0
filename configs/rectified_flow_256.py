"""RectifiedFlow's published 256x256 networks of AFHQ cat and CelebA-HQ, to import and sample from.

Command     python main.py --config=configs/rectified_flow_256.py --mode=import --source=checkpoint.pth --workdir=DIR
            (then --mode=sample with the same config and workdir; --mode=train goes on with --config.data.path=DATA)
Hardware    an accelerator; on a CPU minutes an image
Expect      the checkpoint's own pictures; FIDs are not yet measured here, nor what loss a training that goes on has
Data        for sampling none; to train on, a folder of pictures
Variants    configs/rectified_flow_256.py:smoke    a tiny network of the same kind

Those of LSUN bedroom and church have the same tensors, but were trained on data in [0, 1], which we do not convert: they are not
for this config.

NCSN++ of 65,574,549 parameters: FIR resampling, progressive output and input, Fourier features of log(999 t), and the output
divided by 999 t. It is not defined at t = 0, so it is trained and solved from t = 1e-3, as published.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or its `smoke` variant."""
    config = common.use_256(common.base("rectified_flow_256"))
    config.data.update(source="image_folder", name="images", num_classes=0)
    config.path.t_min = 1e-3
    config.objective.weight_exponent = 2.0  # rectified flow's
    config.model.update(
        conditional=False,
        fir_kernel=(1.0, 3.0, 3.0, 1.0),
        progressive_output="output_skip",
        progressive_input="input_skip",
        embedding="fourier",
        scale_by_sigma=True,
        sigma_max=378.0,  # with num_scales, only to recognize the checkpoint
        num_scales=2000,
        remat_resolutions=(),
        dtype="float32",
    )
    return common.variant(config, variant)
