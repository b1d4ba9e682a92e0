"""KID, precision and recall, and the Inception Score against definitions written out, and against known cases."""

import tracemalloc

import numpy as np
import pytest

from scoreflow_jax.errors import UserError
from scoreflow_jax.metrics.inception_score import inception_score
from scoreflow_jax.metrics.kernel import kernel_distance, squared_mmd
from scoreflow_jax.metrics.precision_recall import precision_recall

RNG = np.random.default_rng(0)


def test_mmd_is_its_definition_pair_by_pair():
    x, y = RNG.normal(size=(5, 3)), RNG.normal(size=(4, 3)) + 1
    k = lambda a, b: (np.dot(a, b) / 3 + 1) ** 3
    within = lambda z: np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])
    expected = within(x) + within(y) - 2 * np.mean([k(a, b) for a in x for b in y])
    assert squared_mmd(x, y) == pytest.approx(expected)


def test_mmd_is_unbiased():
    """Over many pairs of small sets of one distribution its mean is 0, which the biased estimate's is far from."""
    found = [squared_mmd(RNG.normal(size=(8, 2)), RNG.normal(size=(8, 2))) for _ in range(4000)]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 4 * error
    assert error < 0.05


def test_kid_of_subsets_agrees_with_the_whole_and_states_them():
    x, y = RNG.normal(size=(1000, 4)), RNG.normal(size=(900, 4)) + 0.5
    found = kernel_distance(x, y, subsets=50, subset_size=200)
    assert (found.subsets, found.subset_size) == (50, 200)
    assert found.mean == pytest.approx(squared_mmd(x, y), abs=4 * found.std / np.sqrt(50))
    whole = kernel_distance(x, y)
    assert (whole.mean, whole.subsets, whole.subset_size) == (squared_mmd(x, y), 1, 900)
    assert np.isnan(whole.std)
    with pytest.raises(UserError, match="KID of 1 and 900 images: expected at least 2"):
        kernel_distance(x[:1], y)


def test_kid_of_a_few_against_many_stays_small_and_right():
    """No kernel of all pairs of the larger set: 50,000 of them would take 20 GB."""
    few, many = RNG.normal(size=(60, 4)) + 0.5, RNG.normal(size=(20_000, 4))
    tracemalloc.start()
    found = kernel_distance(few, many)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
    assert (found.subsets, found.subset_size) == (100, 60)
    assert found.mean == pytest.approx(squared_mmd(few, many[:3000]), abs=5 * found.std / 10)


def neighbourhood(points, reference, k):
    """The share of points in the union of balls, one distance at a time."""
    radius = [np.sort([np.linalg.norm(r - other) for other in reference])[k] for r in reference]
    return np.mean([any(np.linalg.norm(p - r) <= d for r, d in zip(reference, radius, strict=True)) for p in points])


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_precision_and_recall_are_their_definitions(offset):
    """Also far from the origin, where differences of float32 squares would drown."""
    real = RNG.normal(size=(60, 4)) + offset
    generated = 0.6 * RNG.normal(size=(50, 4)) + offset + 0.5
    generated[7] = generated[3]  # a vector twice is its own neighbour once
    found = precision_recall(generated, real)
    assert found.precision == pytest.approx(neighbourhood(generated, real, 3), abs=0.021)
    assert found.recall == pytest.approx(neighbourhood(real, generated, 3), abs=0.021)
    assert found.precision != found.recall


def test_precision_and_recall_tell_missing_modes_from_bad_images():
    modes = np.array([[-10.0, 0.0], [10.0, 0.0]])
    real = np.concatenate([m + RNG.normal(size=(1500, 2)) for m in modes])
    one_mode = modes[0] + RNG.normal(size=(1500, 2))
    found = precision_recall(one_mode, real)
    assert found.precision > 0.97
    assert 0.45 < found.recall < 0.55
    far = precision_recall(one_mode + 100, real)
    assert far == (0.0, 0.0)
    with pytest.raises(UserError, match="k = 3: expected more than 3"):
        precision_recall(real[:3], real)


def test_inception_score_of_known_probabilities():
    """Certain and evenly over 5 classes: 5. Always the same distribution: 1."""
    certain = np.where(np.eye(5), 50.0, 0.0)[np.tile(np.arange(5), 20)]
    assert inception_score(certain, np.eye(5), splits=2) == pytest.approx((5.0, 0.0))
    same = np.tile(RNG.normal(size=5), (100, 1))
    assert inception_score(same, np.eye(5)) == pytest.approx((1.0, 0.0))
    # p = (0.9, 0.1) and (0.1, 0.9): exp(ln 2 - H(0.1)).
    logits = np.log([[0.9, 0.1], [0.1, 0.9]] * 10)
    entropy = -0.9 * np.log(0.9) - 0.1 * np.log(0.1)
    assert inception_score(logits, np.eye(2), splits=1).mean == pytest.approx(np.exp(np.log(2) - entropy))
    # A shift of all logits changes nothing, and large ones do not overflow.
    assert inception_score(logits + 1e4, np.eye(2), splits=1).mean == pytest.approx(
        np.exp(np.log(2) - entropy), rel=1e-6
    )
    with pytest.raises(UserError, match="4 images in 10 splits"):
        inception_score(logits[:4], np.eye(2))


def test_inception_score_splits_follow_the_order():
    logits = np.where(np.eye(2), 50.0, 0.0)[np.repeat([0, 1], 10)]
    assert inception_score(logits, np.eye(2), splits=2).mean == pytest.approx(1.0)  # each half is one class
    assert inception_score(logits, np.eye(2), splits=1).mean == pytest.approx(2.0)
