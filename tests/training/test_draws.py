"""What a step draws, whatever keys are made of: no two draws hang together, and the coupling is applied as it is said to be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from scoreflow_jax.objectives import PathConstrained
from scoreflow_jax.paths import LinearPath
from scoreflow_jax.training import TrainLoss

N = 4000
KEY = jax.random.key(3)


PATH = LinearPath()


def loss_of(path=PATH, **fields):
    given = {"drift_of": lambda params, key: None, "objective": PathConstrained(path), "path": path, "levels": 0}
    return TrainLoss(**{**given, "conditional": True, "flip": False, **fields})


def largest_correlation(draws):
    """Of ranks, over all pairs: 1 where two draws are functions of the same bits. The same numbers must stand in one row."""
    ranks = np.stack([scipy.stats.rankdata(np.ravel(d)[:N]) for d in draws])
    return np.abs(np.corrcoef(ranks) - np.eye(len(draws))).max()


def test_source_times_and_latent_are_drawn_apart():
    loss = loss_of(LinearPath(latent="sine"))
    drawn = loss.draw(KEY, {"image": jnp.zeros((N, 1)), "label": jnp.zeros(N, jnp.int32)})
    assert largest_correlation([drawn.x0, drawn.t, drawn.z]) < 4 / np.sqrt(N)


def test_data_at_both_ends_are_mirrored_apart():
    """Level 0 on the left and 1 on the right say whether an image was mirrored."""
    image = jnp.broadcast_to(jnp.array([0, 1], jnp.uint8).reshape(1, 1, 2, 1), (N, 1, 2, 1))
    batch = {"image": image, "base": image, "label": jnp.zeros(N, jnp.int32)}
    drawn = loss_of(levels=2, flip=True).draw(KEY, batch)
    mirrored = [np.asarray(x)[:, 0, 0, 0] > 0 for x in (drawn.x0, drawn.x1)]
    for which in mirrored:
        assert scipy.stats.binomtest(int(which.sum()), N).pvalue > 1e-4
    assert largest_correlation([*mirrored, drawn.t]) < 4 / np.sqrt(N)


@pytest.mark.parametrize("classes", [0, 3])
def test_the_coupling_is_that_of_the_batch_and_stays_in_the_class(classes):
    """Against scipy's assignment within each class, from the noise that the same key gives independent pairs."""
    label = (np.arange(24) % max(classes, 1)).astype(np.int32)
    batch = {"image": jax.random.normal(jax.random.key(1), (24, 3)), "label": jnp.asarray(label)}
    apart, coupled = (
        loss_of(coupling=name, conditional=bool(classes)).draw(KEY, batch).x0
        for name in ("independent", "optimal_transport")
    )
    wanted = np.empty((24, 3))
    for c in np.unique(label):
        own = np.flatnonzero(label == c)
        cost = np.sum((np.asarray(batch["image"])[own][:, None] - np.asarray(apart)[own][None]) ** 2, axis=2)
        wanted[own] = np.asarray(apart)[own][scipy.optimize.linear_sum_assignment(cost)[1]]
    np.testing.assert_array_equal(coupled, wanted.astype(np.float32))
    assert not np.array_equal(coupled, apart)
