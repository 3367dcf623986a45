"""The start of a solve is feasible and cannot be improved by a single change."""

from __future__ import annotations

import numpy as np
import pytest

from layerlens.budget.greedy import filled, priced_start
from layerlens.budget.knapsack import Knapsack
from layerlens.budget.lagrangian import Lagrangian, Rows


@pytest.mark.parametrize("seed", range(10))
def test_it_fits_and_no_single_change_gains(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, costs = rng.random((12, 5)), rng.integers(1, 50, (2, 12, 5))
    values[:, 0], costs[:, :, 0] = 0, 0
    bundle_of, charges, fees = np.repeat(np.arange(4), 3), rng.integers(0, 20, (2, 4)), rng.random(4) / 2
    problem = Knapsack.of(values, costs, [120, 150], bundle_of=bundle_of, charges=charges, fees=fees)
    rows = Rows(problem.costs, problem.charges, problem.limits, np.zeros(2, bool))
    lagrangian = Lagrangian(problem, rows)
    priced = lagrangian.minimise()
    start = priced_start(problem, lagrangian, priced.multipliers)
    assert start is not None
    assert problem.is_feasible(start)
    choice = filled(problem, start, priced.reduced)
    assert problem.is_feasible(choice)
    assert problem.value_of(choice) >= problem.value_of(start)
    for group in range(12):
        for option in range(5):
            changed = choice.copy()
            changed[group] = option
            closes = choice[group] > 0 and option == 0
            assert closes or not problem.is_feasible(changed) or problem.value_of(changed) <= problem.value_of(choice)
