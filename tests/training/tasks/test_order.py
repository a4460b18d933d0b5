"""The order of a run's objects."""

import numpy as np
import pytest

from iso3d_jax.training.tasks.order import TURNS, Order


def entries(order, first, count):
    return [order[p] for p in range(first, first + count)]


@pytest.mark.parametrize("size", [1, 6, 5000])
def test_every_epoch_has_every_object_once_in_another_order(size):
    order = Order(3, [size])
    epochs = [entries(order, k * size, size) for k in range(3)]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    if size > 6:
        assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(size))
        assert entries(Order(4, [size]), 0, size) != epochs[0]
    assert [Order(3, [size])[2 * size - 1]] == epochs[1][-1:]  # without those before it


def test_sets_without_weights_are_one():
    assert entries(Order(3, [4, 2]), 0, 12) == entries(Order(3, [6]), 0, 12)


def test_sets_take_turns_by_their_weights():
    order = Order(3, [60, 30, 100], [1, 2, 1])
    found = np.array(entries(order, 0, 4 * TURNS))
    which = np.searchsorted([60, 90], found, side="right")
    for first in (0, 3, 777, 2000):  # any piece of the run is mixed as the whole
        counts = np.bincount(which[first : first + 100], minlength=3)
        assert np.abs(counts - [25, 50, 25]).max() <= 1
    own = found[which == 1]
    assert all(sorted(own[k : k + 30]) == list(range(60, 90)) for k in range(0, 1980, 30))
    assert not np.array_equal(own[:30], own[30:60])


def test_a_small_weight_is_not_forgotten():
    order = Order(0, [10, 10, 10], [1e-6, 1.0, 1.0])
    counts = np.bincount(np.array(entries(order, 0, TURNS)) // 10)
    assert counts[0] == 1 and counts.sum() == TURNS and abs(counts[1] - counts[2]) <= 1
