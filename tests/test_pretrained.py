"""The weights that stand in the checkout are of the network that their config builds, and have learned."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator import read_weights
from scoreflow_jax.experiment import build
from scoreflow_jax.models import make_drift, parameter_shapes
from tests.conftest import ROOT

FOLDER = ROOT / "scoreflow_jax" / "pretrained" / "cifar10_small"


MEANS = {0: (0.051, 0.121, 0.178), 6: (-0.060, -0.123, -0.310)}
"""Of CIFAR-10's training images of aeroplanes and of frogs, by colour."""


def test_the_photographs_drift_is_that_of_its_data_where_it_is_known():
    """At t = 0 the point says nothing of the image: f(x, 0, c) = E[image | c] - x, so f + x is the class's mean for any noise.

    This young network comes within 0.16 of it: it hardly ever saw such times.
    """
    experiment = build(json.loads((FOLDER / "config.json").read_text()))
    shapes = parameter_shapes(experiment.network, experiment.spec.shape)
    params = read_weights(FOLDER / "weights.npz", shapes)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == 5_462_284
    jax.tree.map(lambda leaf, like: np.testing.assert_equal(leaf.shape, like.shape), params, shapes)
    drift = jax.jit(make_drift(experiment.network, params))
    x = jax.random.normal(jax.random.key(0), (8, 32, 32, 3))
    for label, mean in MEANS.items():
        found = np.asarray(drift(x, jnp.zeros(8), jnp.full(8, label)) + x)
        assert found.std(axis=0).mean() < 0.2  # of the noise's 1
        np.testing.assert_allclose(found.mean(axis=(0, 1, 2)), mean, atol=0.2)
        assert np.sign(found[..., 2].mean() - found[..., 0].mean()) == np.sign(
            mean[2] - mean[0]
        )  # blue skies, brown frogs
