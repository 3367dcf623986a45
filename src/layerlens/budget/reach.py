"""How deep a plan can go: budgets of time and memory are spent on depth, before anything else.

Every block that backward passes through costs the same whether one layer of it adapts or all. Where such a budget binds, plans
that spread over the whole depth shrink to a layer or two, which no person would call uniform; so a structured plan starts at the
lowest block above which its smallest sizes fit everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from layerlens.budget.prices import PriceList
from layerlens.words import BudgetName

#: Budgets whose price depends on the lowest adapted block.
DEPTH_BUDGETS = frozenset({BudgetName.TIME_RATIO, BudgetName.VRAM_BYTES})


def lowest_reached(prices: PriceList, members_above: Callable[[int], Sequence[int]], limits: Mapping[BudgetName, float]) -> int:
    """The lowest block from which the smallest size of every member keeps the budgets of time and memory.

    Args:
        prices: What everything costs.
        members_above: The sites that take part, by lowest block.
        limits: Every limit; those that do not depend on depth are left out, for a lack of parameters thins a plan out instead.

    Returns:
        0 where no such budget binds; the highest block where even that one's members do not fit all together.
    """
    asked = {name: limit for name, limit in limits.items() if name in DEPTH_BUDGETS}
    if not asked:
        return 0
    for block in range(len(prices.bases) - 1):
        sizes = np.zeros(len(prices.sites), dtype=np.int64)
        for member in members_above(block):
            sizes[member] = prices.sites[member].sizes[0]
        if sizes.any() and prices.is_within(sizes, asked):
            return block
    return max(0, len(prices.bases) - 2)
