"""A plan to start from: the best choice at prices just high enough, then single changes that still fit.

It proves nothing; the solver needs it where no combination close to the bound fits, and to know what to beat.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from layerlens.budget.knapsack import Knapsack
from layerlens.budget.lagrangian import Lagrangian

MAX_CHANGES = 2000


def priced_start(
    problem: Knapsack, lagrangian: Lagrangian, multipliers: Float[np.ndarray, " rows"]
) -> Int[np.ndarray, " groups"] | None:
    """Raise all prices together until the choice they make fits; nothing where even that does not."""
    low, high = 1.0, None
    found = None
    factor = 1.0
    for _ in range(60):
        choice = lagrangian.choice_at(multipliers * factor)
        if problem.is_feasible(choice):
            found, high = choice, factor
        else:
            low = factor
        factor = low * 2 if high is None else (low + high) / 2
        if high is not None and high - low < 1e-6 * high:
            break
    if found is None and np.isfinite(problem.values[:, 0]).all() and (problem.limits >= 0).all():
        found = np.zeros(problem.num_groups, np.int64)
    return found


def filled(
    problem: Knapsack, choice: Int[np.ndarray, " groups"], reduced: Float[np.ndarray, "groups options"]
) -> Int[np.ndarray, " groups"]:
    """Change one group at a time, the best at the current prices that gains and fits first, until nothing does.

    Args:
        problem: The instance.
        choice: Where to start; feasible.
        reduced: Values minus priced costs; what is gained for little of a scarce budget comes first.
    """
    choice = choice.copy()
    groups = np.arange(problem.num_groups)
    for _ in range(MAX_CHANGES):
        slack = problem.limits - problem.spend_of(choice)
        extra = problem.costs - problem.costs[:, groups, choice][:, :, None]
        values = problem.values
        if problem.charges.shape[1]:
            is_first = _is_first(problem, choice)
            extra[:, is_first, 1:] += problem.charges[:, problem.bundle_of[is_first], None]
            values = values.copy()
            values[is_first, 1:] -= problem.fees[problem.bundle_of[is_first], None]
        gains = values > values[groups, choice][:, None]
        score = np.where(gains & (extra <= slack[:, None, None]).all(axis=0), reduced - reduced[groups, choice][:, None], -np.inf)
        group, option = divmod(int(score.argmax()), problem.values.shape[1])
        if score[group, option] == -np.inf:
            return choice
        choice[group] = option
    return choice


def _is_first(problem: Knapsack, choice: Int[np.ndarray, " groups"]) -> Bool[np.ndarray, " groups"]:
    """Which groups would be the first of their bundle to take anything."""
    is_bundled = problem.bundle_of >= 0
    takers = np.bincount(problem.bundle_of[is_bundled & (choice > 0)], minlength=problem.charges.shape[1])
    return is_bundled & (takers[problem.bundle_of] == 0)
