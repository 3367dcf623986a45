from __future__ import annotations

import numpy as np
import pytest

from layerlens.budget.uniform import evenly_spaced, uniform_sizes


def brute_force(prices: np.ndarray, largest: np.ndarray, ranks: list[int], limit: int) -> np.ndarray | None:
    """The definition, read aloud: every rank and every number of layers with one rank more is tried."""
    num = len(prices)
    best = None
    for low, high in zip([0, *ranks], [*ranks, ranks[-1]], strict=True):
        for more in range(num):
            sizes = np.full(num, low)
            sizes[evenly_spaced(num, more)] = high
            sizes = np.minimum(sizes, largest)
            if (prices * sizes).sum() <= limit and sizes.any():
                best = sizes
    if best is not None and not best.all():
        for place in reversed(range(num)):
            more = best.copy()
            more[place] = max(more[place], min(ranks[0], largest[place]))
            best = more if (prices * more).sum() <= limit else best
    return best


@pytest.mark.parametrize("limit", [0, 3, 4, 10, 16, 19, 23, 26, 30, 37, 60, 100, 161, 1000])
def test_uniform_is_what_its_definition_says(limit: int) -> None:
    prices = np.array([4, 4, 7, 4, 5, 4, 9])
    for largest in (np.full(7, 5), np.array([5, 5, 2, 5, 3, 5, 5])):
        found = uniform_sizes(largest, range(7), [1, 2, 3, 4, 5], lambda sizes: int((prices * sizes).sum()) <= limit)
        expected = brute_force(prices, largest, [1, 2, 3, 4, 5], limit)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert found.tolist() == expected.tolist()


def test_a_budget_below_rank_one_is_spent_on_what_still_fits() -> None:
    # Of even spreads the cheap layer in the middle alone fits; the last of the dear ones fits beside it.
    prices = np.array([10, 3, 10])
    found = uniform_sizes(np.full(3, 4), range(3), [1, 2], lambda sizes: int((prices * sizes).sum()) <= 14)
    assert found is not None
    assert found.tolist() == [0, 1, 1]


def test_evenly_spaced_layers_are_distinct_and_as_far_apart_as_can_be() -> None:
    for total in range(1, 20):
        for chosen in range(1, total + 1):
            places = evenly_spaced(total, chosen)
            assert len(set(places.tolist())) == chosen
            assert places[0] >= 0
            assert places[-1] < total
            gaps = np.diff(places)
            assert chosen == 1 or gaps.max() - gaps.min() <= 1


def test_sites_outside_the_set_get_nothing() -> None:
    found = uniform_sizes(np.full(5, 3), [1, 3], [1, 2, 3], lambda sizes: True)
    assert found is not None
    assert found.tolist() == [0, 3, 0, 3, 0]


def test_nothing_fits_where_not_one_layer_does() -> None:
    assert uniform_sizes(np.full(3, 2), [0, 1, 2], [1, 2], lambda sizes: not sizes.any()) is None
    assert uniform_sizes(np.full(3, 2), [], [1, 2], lambda sizes: True) is None
