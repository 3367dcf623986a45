"""Lumps are recognised: as charges, and in costs that do not start at zero."""

from __future__ import annotations

import numpy as np

from layerlens.budget.kinds import kinds_of
from layerlens.budget.knapsack import Knapsack, tidy

RANKS = np.arange(4)
GAIN = 1 - 0.5**RANKS


def kinds(problem: Knapsack) -> list:
    return kinds_of(problem, tidy(problem))


def test_bundles_with_equal_charges_are_one_kind_with_or_without_company() -> None:
    costs = np.repeat(RANKS[None, None], 6, axis=1)
    bundle_of, charges = np.array([0, 0, 0, 1, 2, 2]), np.array([[50, 50, 90]])
    problem = Knapsack.of(np.repeat(GAIN[None], 6, axis=0), costs, [200], bundle_of=bundle_of, charges=charges)
    first, second = sorted(kinds(problem), key=lambda kind: kind.largest, reverse=True)
    assert (first.largest, second.largest) == (2, 1)
    assert first.count(np.array([1, 2, 0, 3, 1, 1])) == 2
    assert first.count(np.array([0, 0, 0, 3, 1, 1])) == 1
    assert second.count(np.array([0, 0, 0, 3, 1, 1])) == 1


def test_costs_with_a_like_offset_are_a_kind_and_straight_ones_are_not() -> None:
    lump = np.array([100, 100, 100, 0, 0, 0])[:, None] * (RANKS > 0)
    problem = Knapsack.of(np.repeat(GAIN[None], 6, axis=0), (RANKS + lump)[None], [250])
    (found,) = kinds(problem)
    assert found.count(np.array([1, 0, 3, 1, 1, 1])) == 2


def test_offsets_smaller_than_a_few_steps_are_not_worth_counting() -> None:
    problem = Knapsack.of(
        np.repeat(GAIN[None], 6, axis=0), np.repeat((10 * RANKS + 5 * (RANKS > 0))[None, None], 6, axis=1), [90]
    )
    assert kinds(problem) == []
