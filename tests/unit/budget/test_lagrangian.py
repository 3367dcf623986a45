"""The bound is a bound at every price, and its least value is that of the linear relaxation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from layerlens.budget.knapsack import Knapsack
from layerlens.budget.lagrangian import Lagrangian, Rows
from tests.unit.budget.knapsacks import best_of_all, small_knapsacks


def lagrangian_of(problem: Knapsack) -> Lagrangian:
    rows = Rows(problem.costs, problem.charges, problem.limits, np.zeros(problem.num_budgets, bool))
    return Lagrangian(problem, rows)


@settings(max_examples=60, deadline=None)
@given(small_knapsacks(), st.lists(st.floats(0, 2), min_size=3, max_size=3))
def test_no_plan_is_worth_more_than_the_bound_at_any_price(make: Callable[[], Knapsack], prices: list[float]) -> None:
    problem = make()
    best = best_of_all(problem)
    lagrangian = lagrangian_of(problem)
    for priced in (lagrangian.at(np.array(prices[: problem.num_budgets])), lagrangian.minimise()):
        assert priced.bound >= best - 1e-9 * max(1.0, abs(best))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_budgets", [1, 2, 3])
def test_the_least_bound_is_the_linear_relaxation(num_budgets: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups, options = 20, 6
    values, costs = rng.random((groups, options)), rng.integers(1, 1000, (num_budgets, groups, options))
    values[:, 0], costs[:, :, 0] = 0, 0
    limits = (0.2 * costs.max(axis=2).sum(axis=1)).astype(np.int64)
    relaxed = linprog(
        -values.ravel(),
        A_ub=costs.reshape(num_budgets, -1),
        b_ub=limits,
        A_eq=np.kron(np.eye(groups), np.ones(options)),
        b_eq=np.ones(groups),
    )
    assert lagrangian_of(Knapsack.of(values, costs, limits)).minimise().bound == pytest.approx(-relaxed.fun, rel=1e-7)


def test_a_budget_that_does_not_bind_costs_nothing() -> None:
    rng = np.random.default_rng(0)
    values, costs = rng.random((10, 3)), rng.integers(1, 100, (2, 10, 3))
    values[:, 0], costs[:, :, 0] = 0, 0
    priced = lagrangian_of(Knapsack.of(values, costs, [150, 10**6])).minimise()
    assert priced.multipliers[0] > 0
    assert priced.multipliers[1] == 0
