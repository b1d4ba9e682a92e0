"""A flow map on CIFAR-10, class-conditional: one network for the ODE and for its jumps, in both directions.

Command     python main.py --config=configs/flow_map.py --mode=train
            (then --mode=sample --config.solver.method=flow_map --config.solver.num_steps=1; translate and interpolate likewise)
Hardware    one TPU v4 board or 4 GPUs of 40 GB; not on a laptop, where the variants belong
Expect      not measured; `:digits` and the toys are in docs/theory.md
Data        CIFAR-10 by tensorflow-datasets: see docs/usage.md
Variants    configs/flow_map.py:digits        handwritten digits, minutes on a laptop
            configs/flow_map.py:checkerboard  and :moons, :gaussians: points of the plane, under a minute
            configs/flow_map.py:smoke         a few steps of a tiny network, in seconds

The network of configs/rectified_flow.py, told a second time. Without --config.solver.method=flow_map every mode solves its ODE.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or a variant of it."""
    config = common.system("flow_map", variant)
    config.objective = common.objective("flow_map")
    config.model.two_times = True
    return common.system_variant(config, variant)
