"""From data to data in the plane: eight Gaussians (t = 0) to two moons (t = 1), the standard example of flow matching.

Command     python main.py --config=configs/gaussians_to_moons.py --mode=train
            (then --mode=translate goes both ways, and sample and eval measure the way to the moons)
Hardware    a laptop: 2 CPU cores, under 1 GB
Time        six minutes of training beside other work on 2 cores, most of it for pairing
Expect      --mode=translate: both shapes filled, few points between; there and back within 1e-5 standard deviations for 51 and 45
            network calls; --mode=eval: Frechet distance 0.002 of 5,000 points, precision 0.96, recall 0.98
            Loss 0.10 in the first 200 steps, 0.03 after 600
Data        drawn from fixed seeds. Tables instead: --config.data.source=table --config.data.path=TO.csv
            --config.data.base="{'path': 'FROM.csv'}" in a config of your own (`common.between`), of as many columns
Variants    configs/gaussians_to_moons.py:smoke    a few steps of a tiny network, in seconds

The ends are paired by optimal transport within each batch (config.train.coupling), which straightens the ways. There is no noise,
so there is no likelihood, no score and no interpolation of latents. The network has 182,274 parameters.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or its `smoke` variant."""
    config = common.use_toy(common.base("gaussians_to_moons"), "moons")
    config.objective = common.path_constrained(weight_exponent=2.0)
    common.between(config, name="gaussians")
    config.train.coupling = "optimal_transport"
    config.eval.likelihood.by = "none"
    config.translate.update(num_images=1000, batch_size=1000, shown=40)
    return common.variant(config, variant)
