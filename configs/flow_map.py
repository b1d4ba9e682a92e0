"""A flow map on CIFAR-10, class-conditional: one network for the ODE and for its jumps, in both directions.

Command     python main.py --config=configs/flow_map.py --mode=train
            (then --mode=sample --config.solver.method=flow_map --config.solver.num_steps=1; translate and interpolate likewise)
Hardware    one TPU v4 board or 4 GPUs of 40 GB; not on a laptop, where the variants belong
Expect      not measured at this size; one call of `:digits` by a teacher is recognized in 99 %, at 1.5 times its ODE's distance
            (docs/theory.md). Loss of `:digits` 0.210 after 1,000 steps (dequantized), of `:moons` 0.534 after 2,000
Data        CIFAR-10 by tensorflow-datasets: see docs/usage.md
Variants    configs/flow_map.py:digits        handwritten digits, minutes on a laptop
            configs/flow_map.py:checkerboard  and :moons, :gaussians: points of the plane, under a minute
            configs/flow_map.py:smoke         a few steps of a tiny network, in seconds

The network of configs/rectified_flow.py, told a second time: 67,325,059 parameters. Without --config.solver.method=flow_map every
mode solves its ODE. A trained run to learn from makes it better at equal compute: --config.objective.teacher=WORKDIR.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or a variant of it."""
    config = common.system("flow_map", variant)
    config.objective = common.objective("flow_map")
    config.model.two_times = True
    return common.system_variant(config, variant)
