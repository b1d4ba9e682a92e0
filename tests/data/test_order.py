"""The training stream as a function of seed and place."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoreflow_jax.data.order import Order

LABELS = np.asarray([0] * 20 + [1] * 3 + [2] * 7, np.int32)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 50), seed=st.integers(0, 2**40), first=st.integers(0, 10**12))
def test_any_epoch_has_every_example_once(size, seed, first):
    """Also one far into the run, which is reached without computing those before it."""
    epoch = first // size
    places = epoch * size + np.arange(size)
    assert sorted(Order(size, seed)(places)) == list(range(size))


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 50), cuts=st.lists(st.integers(0, 200), max_size=5), balanced=st.booleans())
def test_the_stream_does_not_depend_on_how_it_is_cut(size, cuts, balanced):
    labels = np.arange(size, dtype=np.int32) % 3 if balanced else None
    whole = Order(size, 7, labels)(np.arange(200))
    bounds = sorted({0, 200, *cuts})
    order = Order(size, 7, labels)
    parts = [order(np.arange(a, b)) for a, b in itertools.pairwise(bounds)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    backwards = [Order(size, 7, labels)(np.arange(a, b)) for a, b in reversed([*itertools.pairwise(bounds)])]
    np.testing.assert_array_equal(np.concatenate(backwards[::-1]), whole)


def test_epochs_and_seeds_have_orders_of_their_own():
    order = Order(40, 1)
    first, second = order(np.arange(40)), order(np.arange(40, 80))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.arange(40))
    assert not np.array_equal(first, Order(40, 2)(np.arange(40)))


def test_every_example_is_equally_likely_at_every_place():
    """Over 4,000 epochs each of 5 examples stands at the first place 800 times, within four standard deviations."""
    first = Order(5, 3)(5 * np.arange(4000))
    counts = np.bincount(first, minlength=5)
    assert np.all(np.abs(counts - 800) < 4 * np.sqrt(4000 * 0.2 * 0.8))


def test_balanced_draws_each_class_equally_often_and_each_member_once_a_round():
    drawn = Order(len(LABELS), 5, LABELS)(np.arange(3 * 20 * 21))
    np.testing.assert_array_equal(np.bincount(LABELS[drawn]), [420, 420, 420])
    for batch in LABELS[drawn].reshape(-1, 6):
        np.testing.assert_array_equal(np.bincount(batch, minlength=3), [2, 2, 2])
    for label, size in enumerate((20, 3, 7)):
        own = drawn[LABELS[drawn] == label].reshape(-1, size)
        assert all(sorted(round_) == np.flatnonzero(label == LABELS).tolist() for round_ in own)
        assert len({tuple(round_) for round_ in own}) > 1


def test_balanced_leaves_out_classes_without_examples():
    drawn = Order(3, 0, np.asarray([0, 2, 2], np.int32))(np.arange(8))
    np.testing.assert_array_equal(np.sort(drawn[0::2]), [0, 0, 0, 0])


@pytest.mark.parametrize("places", [np.asarray([0]), np.asarray([39, 40]), np.arange(1000, 900, -7)])
def test_places_in_any_order(places):
    whole = Order(40, 1)(np.arange(1001))
    np.testing.assert_array_equal(Order(40, 1)(places), whole[places])
