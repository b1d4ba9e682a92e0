"""Distributions of training times against their densities, and the coupling against scipy's assignment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from scoreflow_jax.training import TIMES
from scoreflow_jax.training.coupling import assignment, optimal_transport, squared_distances

N = 20_000
CDFS = {
    "uniform": lambda t: t,
    "logit_normal": lambda t: scipy.stats.norm.cdf(np.log(t / (1 - t))),
    # The integral of exp(4 t) + exp(4 (1 - t)), over its value at 1.
    "u_shaped": lambda t: (np.exp(4 * t) - np.exp(4 * (1 - t)) + np.exp(4) - 1) / (2 * np.exp(4) - 2),
}


@pytest.mark.parametrize("name", CDFS)
@pytest.mark.parametrize("low_discrepancy", [False, True])
def test_times_have_their_distribution(name, low_discrepancy):
    t = np.asarray(TIMES[name](low_discrepancy=low_discrepancy).draw(jax.random.key(0), N, 0.0, 1.0), np.float64)
    assert 0 <= t.min() < t.max() <= 1
    distance = scipy.stats.kstest(t, CDFS[name]).statistic
    # The largest gap of independent draws is about 0.9 / sqrt(N); evenly spread ones leave none but 1 / N.
    assert distance < (2 / N if low_discrepancy else 2 / np.sqrt(N))


@pytest.mark.parametrize("name", list(TIMES))
def test_times_stay_between_the_paths_limits(name):
    t = np.asarray(TIMES[name]().draw(jax.random.key(1), 1000, 0.2, 0.6))
    assert t.min() >= 0.2
    assert t.max() <= 0.6 + 1e-6
    assert t.max() - t.min() > 0.3


@pytest.mark.parametrize(("with_end", "expected"), [(True, [0, 1 / 3, 2 / 3, 1]), (False, [0, 0.25, 0.5, 0.75])])
def test_a_grid_has_its_times_equally_often(with_end, expected):
    t = TIMES["grid"](count=4, with_end=with_end).draw(jax.random.key(2), N, 0.0, 1.0)
    values, counts = np.unique(np.asarray(t), return_counts=True)
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert scipy.stats.chisquare(counts).pvalue > 1e-4


def test_low_discrepancy_differs_from_step_to_step():
    draw = lambda seed: np.sort(TIMES["uniform"](low_discrepancy=True).draw(jax.random.key(seed), 8, 0.0, 1.0))
    np.testing.assert_allclose(np.diff(draw(0)), 1 / 8, atol=1e-6)
    assert abs(draw(0)[0] - draw(1)[0]) > 1e-3


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: TIMES["logit_normal"](std=0.0), "std is 0.0"),
        (lambda: TIMES["u_shaped"](steepness=-1.0), "steepness is -1.0"),
        (lambda: TIMES["grid"](count=1), "count is 1, expected at least 2"),
        (lambda: TIMES["grid"](count=0, with_end=False), "count is 0, expected at least 1"),
    ],
)
def test_what_means_nothing_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("classes", [0, 3])
def test_the_coupling_is_scipys_best_assignment(classes):
    x0, x1 = (jax.random.normal(k, (24, 2, 3)) for k in jax.random.split(jax.random.key(3)))
    labels = None if not classes else jnp.arange(24) % classes
    coupled = jax.jit(optimal_transport)(x0, x1, labels)
    assert sorted(map(tuple, np.asarray(coupled).reshape(24, -1).tolist())) == sorted(
        map(tuple, np.asarray(x0).reshape(24, -1).tolist())
    )
    total = float(jnp.sum((coupled - x1) ** 2))
    best = 0.0
    for group in (
        [np.arange(24)] if labels is None else [np.flatnonzero(np.asarray(labels) == c) for c in range(classes)]
    ):
        cost = np.sum((np.asarray(x1)[group][:, None] - np.asarray(x0)[group][None]) ** 2, axis=(2, 3))
        rows, columns = scipy.optimize.linear_sum_assignment(cost)
        best += cost[rows, columns].sum()
    assert total == pytest.approx(best, rel=1e-5)
    assert total < 0.8 * float(jnp.sum((x0 - x1) ** 2))
    if classes:  # an example's noise was that of one of its class
        chosen = assignment(squared_distances(x1, x0), labels)
        np.testing.assert_array_equal(labels[chosen], labels)


def test_vectors_as_conditions_keep_their_noise():
    x0, x1 = jnp.ones((4, 2)) * jnp.arange(4.0)[:, None], jnp.zeros((4, 2))
    np.testing.assert_array_equal(optimal_transport(x0, x1, jnp.ones((4, 5))), x0)
