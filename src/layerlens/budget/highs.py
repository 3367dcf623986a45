"""The last resort: what is left of a knapsack, given to the mixed-integer solver HiGHS through scipy.

It is asked only where the search of the core was stopped by its limit: few groups, several budgets at once, costs
that grow with the values. scipy is imported here and nowhere else, because the import alone takes longer than most plans.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from jaxtyping import Int

from layerlens.budget.knapsack import Knapsack

#: Nodes × columns, so that large instances do not take minutes.
NODE_COLUMNS = 300_000
#: HiGHS accepts constraints broken by this share; its bound is widened by as much.
SLOPPINESS = 1e-7
ATTEMPTS = 4


def solve_with_highs(problem: Knapsack, relative_gap: float) -> tuple[Int[np.ndarray, " groups"] | None, float]:
    """Solve what is left of an instance.

    Args:
        problem: The instance, its pointless options already gone.
        relative_gap: Gap at which HiGHS may stop.

    Returns:
        A feasible choice, or none where HiGHS found none within its node limit, and a bound on every choice.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    groups, options = np.nonzero(np.isfinite(problem.values))
    places = np.arange(len(groups))
    bundles = np.unique(problem.bundle_of[problem.bundle_of >= 0])
    size = len(groups) + len(bundles)
    one_each = csr_array((np.ones(len(groups)), (groups, places)), shape=(problem.num_groups, size))
    constraints = [LinearConstraint(one_each, 1, 1)]
    takes = np.flatnonzero((options > 0) & (problem.bundle_of[groups] >= 0))
    if len(takes):
        # Options of one group exclude each other, so one row per group says: taking any needs its bundle open.
        members = np.unique(groups[takes])
        doors = len(groups) + np.searchsorted(bundles, problem.bundle_of[members])
        entries = np.concatenate([np.ones(len(takes)), -np.ones(len(members))])
        rows, columns = np.concatenate([groups[takes], members]), np.concatenate([takes, doors])
        opened = csr_array((entries, (rows, columns)), shape=(problem.num_groups, size))
        constraints.append(LinearConstraint(opened, -np.inf, 0))
    spend = np.concatenate([problem.costs[:, groups, options], problem.charges[:, bundles]], axis=1)
    scale = np.maximum(problem.limits, 1)
    objective = -np.concatenate([problem.values[groups, options], -problem.fees[bundles]])
    room = problem.limits.astype(float)
    bound = np.inf
    for _ in range(ATTEMPTS):
        budgets = LinearConstraint(spend / scale[:, None], -np.inf, room / scale)
        with _silenced():
            result = milp(
                objective,
                constraints=[*constraints, budgets],
                integrality=np.ones(size, np.int64),
                bounds=Bounds(0, 1),
                options={"mip_rel_gap": relative_gap, "node_limit": max(20, NODE_COLUMNS // size)},
            )
        if result.mip_dual_bound is not None and bound == np.inf:
            bound = -float(result.mip_dual_bound) + SLOPPINESS * abs(float(result.mip_dual_bound))
        if result.x is None:
            return None, bound
        chosen = np.flatnonzero(result.x[: len(groups)] > 0.5)
        choice = np.zeros(problem.num_groups, np.int64)
        choice[groups[chosen]] = options[chosen]
        over = problem.spend_of(choice) - problem.limits
        if problem.is_feasible(choice):
            return choice, bound
        room = room - 2 * np.maximum(over, 0)
    return None, bound


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep what HiGHS prints past Python off the standard output, where a table or JSON may be."""
    sys.stdout.flush()
    try:
        saved = os.dup(1)
    except OSError:
        yield
        return
    try:
        with open(os.devnull, "wb") as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
