"""The problem itself: what it refuses, and that tidying changes nothing that matters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings

from layerlens.budget.knapsack import Knapsack, tidy
from layerlens.errors import ConfigError
from tests.unit.budget.knapsacks import best_of_all, small_knapsacks


@settings(max_examples=200, deadline=None)
@given(small_knapsacks())
def test_tidying_keeps_the_optimum(make: Callable[[], Knapsack]) -> None:
    problem = make()
    assert best_of_all(tidy(problem)) == pytest.approx(best_of_all(problem), rel=1e-12, abs=1e-12)


def one_group(*costs: list[int], values: list[float], limits: list[int]) -> Knapsack:
    return Knapsack.of(np.array([values]), np.array([[row] for row in costs]), limits)


def test_an_option_that_another_beats_is_dropped() -> None:
    tidied = tidy(one_group([0, 1, 2, 3], values=[0.0, 2.0, 1.0, 3.0], limits=[3]))
    assert np.isfinite(tidied.values[0]).tolist() == [True, True, False, True]


def test_an_option_over_a_budget_on_its_own_is_dropped() -> None:
    tidied = tidy(one_group([0, 1, 9], values=[0.0, 1.0, 2.0], limits=[3]))
    assert np.isfinite(tidied.values[0]).tolist() == [True, True, False]


def test_a_limit_comes_down_to_what_the_costs_can_reach() -> None:
    problem = Knapsack.of(np.array([[0.0, 1.0]] * 3), np.array([[[0, 4], [0, 8], [0, 12]]]), [15])
    assert tidy(problem).limits.tolist() == [12]


def test_a_budget_that_another_implies_goes_and_the_tighter_one_stays() -> None:
    costs = np.array([[[0, 4], [0, 8]], [[0, 24], [0, 48]]])
    tidied = tidy(Knapsack.of(np.array([[0.0, 1.0]] * 2), costs, [8, 96]))
    assert tidied.limits.tolist() == [8]


def test_budgets_with_equal_shares_leave_one() -> None:
    costs = np.array([[[0, 4], [0, 8]], [[0, 24], [0, 48]]])
    assert tidy(Knapsack.of(np.array([[0.0, 1.0]] * 2), costs, [8, 48])).num_budgets == 1


def test_a_charge_and_its_fee_are_paid_once_however_many_share_it() -> None:
    problem = Knapsack.of(
        np.array([[0.0, 1.0]] * 3),
        np.array([[[0, 1]] * 3]),
        [9],
        bundle_of=np.array([0, 0, -1]),
        charges=np.array([[5]]),
        fees=np.array([0.25]),
    )
    choices = [np.array(choice) for choice in ([0, 0, 1], [1, 0, 1], [1, 1, 1])]
    assert [int(problem.spend_of(choice)[0]) for choice in choices] == [1, 7, 8]
    assert [problem.value_of(choice) for choice in choices] == [1.0, 1.75, 2.75]


@pytest.mark.parametrize(
    ("values", "costs", "message"),
    [
        ([[0.0, 1.0]], [[[0, -1]]], "negative"),
        ([[0.0, 1.0]], [[[2, 3]]], "none"),
        ([[1.0, 1.0]], [[[0, 3]]], "none"),
        ([[0.0, np.nan]], [[[0, 3]]], "not a number"),
        ([[0.0, 1.0]], [[[0, 2**60]]], "larger unit"),
    ],
)
def test_an_instance_that_makes_no_sense_is_refused(values: list, costs: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Knapsack.of(np.array(values), np.array(costs), [3])
