"""Small knapsacks of every awkward kind, and the two oracles: every combination, and scipy's mixed-integer solver."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from layerlens.budget.knapsack import Knapsack

VALUES = ("random", "rising", "integer", "equal", "zero", "proportional to cost", "with negative ones")


@st.composite
def small_knapsacks(draw: st.DrawFn, *, max_groups: int = 5, max_options: int = 4) -> Callable[[], Knapsack]:
    """Up to 5 groups × 4 options × 3 budgets, with shared charges and fees, groups that must take something, ties and zeros.

    What makes the instance comes back and not the instance: type checks draw random numbers, which a strategy must not.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_groups, num_options = draw(st.integers(1, max_groups)), draw(st.integers(1, max_options))
    num_budgets, largest = draw(st.integers(1, 3)), draw(st.sampled_from([1, 5, 100, 10**6]))
    costs = rng.integers(0, largest + 1, (num_budgets, num_groups, num_options + 1))
    costs[:, :, 0] = 0
    if draw(st.booleans()):
        costs.sort(axis=2)
    values = {
        "random": lambda: rng.random((num_groups, num_options + 1)),
        "rising": lambda: np.sort(rng.random((num_groups, num_options + 1)), axis=1),
        "integer": lambda: rng.integers(0, 4, (num_groups, num_options + 1)).astype(float),
        "equal": lambda: np.ones((num_groups, num_options + 1)),
        "zero": lambda: np.zeros((num_groups, num_options + 1)),
        "proportional to cost": lambda: costs.sum(axis=0) + draw(st.sampled_from([0.0, 5.0])),
        "with negative ones": lambda: rng.random((num_groups, num_options + 1)) - 0.4,
    }[draw(st.sampled_from(VALUES))]()
    values[:, 0] = 0.0
    if draw(st.booleans()):
        values[:, 1:][rng.random((num_groups, num_options)) < 0.2] = -np.inf
    if draw(st.booleans()):
        has_option = np.isfinite(values[:, 1:]).any(axis=1)
        values[has_option & (rng.random(num_groups) < 0.4), 0] = -np.inf
    bundle_of, charges, fees = None, None, None
    if draw(st.booleans()):
        num_bundles = draw(st.integers(1, 3))
        bundle_of = rng.integers(-1, num_bundles, num_groups)
        charges = rng.integers(0, largest + 1, (num_budgets, num_bundles))
        charges[:] = charges[:, :1] if draw(st.booleans()) else charges
        fees = rng.random(num_bundles) if draw(st.booleans()) else None
    limits = (costs.max(axis=2).sum(axis=1) * rng.uniform(0.0, 1.1, num_budgets)).astype(np.int64)
    counted = [rng.random(num_groups) < 0.5] if draw(st.booleans()) else None
    return partial(Knapsack.of, values, costs, limits, bundle_of=bundle_of, charges=charges, fees=fees, counted=counted)


def best_of_all(problem: Knapsack) -> float:
    """The highest value of any feasible combination; -inf where there is none."""
    options = [np.flatnonzero(np.isfinite(row)) for row in problem.values]
    best = -np.inf
    for combination in itertools.product(*options):
        spend = sum(problem.costs[:, group, option] for group, option in enumerate(combination))
        opened = {int(problem.bundle_of[g]) for g, option in enumerate(combination) if option and problem.bundle_of[g] >= 0}
        spend = spend + sum((problem.charges[:, bundle] for bundle in opened), np.zeros(problem.num_budgets, np.int64))
        if (spend <= problem.limits).all():
            paid = sum(problem.fees[bundle] for bundle in opened)
            best = max(best, sum(problem.values[group, option] for group, option in enumerate(combination)) - paid)
    return best


def milp_bounds(problem: Knapsack) -> tuple[float, float]:
    """Value and bound by scipy, for problems without charges and with none allowed everywhere."""
    num_groups, num_options = problem.values.shape
    budgets = problem.costs.reshape(problem.num_budgets, -1) / np.maximum(problem.limits, 1)[:, None]
    result = milp(
        -problem.values.ravel(),
        constraints=[
            LinearConstraint(np.kron(np.eye(num_groups), np.ones(num_options)), 1, 1),
            LinearConstraint(budgets, -np.inf, problem.limits / np.maximum(problem.limits, 1)),
        ],
        integrality=np.ones(num_groups * num_options, np.int64),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 1e-7},
    )
    choice = result.x.reshape(num_groups, num_options).argmax(axis=1)
    return problem.value_of(choice), -float(result.mip_dual_bound)
