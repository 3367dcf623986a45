"""The last resort agrees with every combination, keeps budgets exactly and keeps quiet."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings

from layerlens.budget.highs import solve_with_highs
from layerlens.budget.knapsack import Knapsack
from tests.unit.budget.knapsacks import best_of_all, small_knapsacks


@settings(max_examples=60, deadline=None)
@given(small_knapsacks())
def test_it_brackets_the_best_of_all_combinations(make: Callable[[], Knapsack]) -> None:
    problem = make()
    choice, bound = solve_with_highs(problem, 1e-9)
    best = best_of_all(problem)
    if choice is None:
        assert best == -np.inf
        return
    assert problem.is_feasible(choice)
    assert problem.value_of(choice) <= best + 1e-9
    assert problem.value_of(choice) >= best - 1e-6 * max(1.0, abs(best))
    assert bound >= best - 1e-6 * max(1.0, abs(best))


def test_it_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    values, costs = rng.random((40, 9)), rng.integers(1, 10**6, (2, 40, 9))
    values[:, 0], costs[:, :, 0] = 0, 0
    choice, _ = solve_with_highs(Knapsack.of(values, costs, [4_000_000, 5_000_000]), 1e-6)
    assert choice is not None
    assert capfd.readouterr().out == ""
