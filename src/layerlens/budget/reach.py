"""How deep a plan can go: budgets of time, memory and compute are spent on depth before anything else.

Every block that backward passes through costs the same whether one layer of it adapts or all. Where such a budget binds, plans
that spread over the whole depth shrink to a layer or two, which no person would call uniform; so a structured plan starts at the
lowest block above which it can be whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from layerlens.budget.costs import DEPTH_BUDGETS
from layerlens.budget.prices import PriceList
from layerlens.words import BudgetName

Sizes = Int[np.ndarray, " sites"]


def lowest_reached(
    prices: PriceList,
    members_above: Callable[[int], Sequence[int]],
    limits: Mapping[BudgetName, float],
    wanted: Callable[[Sequence[int], Mapping[BudgetName, float]], Sizes | None],
) -> int:
    """The lowest block from which what is wanted of every member keeps the budgets that depend on depth.

    Args:
        prices: What everything costs.
        members_above: The sites that take part, by lowest block.
        limits: Every limit.
        wanted: Sizes of all sites for these members under the limits that do not depend on depth; none for the smallest ones.

    Returns:
        0 without a budget that depends on depth. Where no block takes what is wanted, the lowest that takes the smallest sizes;
        where none does, the highest that has members.
    """
    of_depth = {name: limit for name, limit in limits.items() if name in DEPTH_BUDGETS}
    if not of_depth:
        return 0
    others = {name: limit for name, limit in limits.items() if name not in DEPTH_BUDGETS}
    members = {block: found for block in range(len(prices.bases) - 1) if (found := members_above(block))}
    for sizes_of in (lambda found: wanted(found, others), lambda found: smallest_sizes(prices, found)):
        for block, found in members.items():
            sizes = sizes_of(found)
            if sizes is not None and prices.is_within(sizes, of_depth):
                return block
    return max(members, default=0)


def smallest_sizes(prices: PriceList, members: Sequence[int]) -> Sizes:
    """Every member at its smallest, all else at none."""
    sizes = np.zeros(len(prices.sites), dtype=np.int64)
    for member in members:
        sizes[member] = prices.sites[member].sizes[0]
    return sizes
