"""The plans that race: the exact optimum under each value model, and structured plans that fill the same budgets.

A structured plan is uniform over a set of roles, above a depth cut. Gains of layers do not add up, and plans that a
person could have written have beaten additive optima, so measurement gets to choose among both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Int

from layerlens.artifacts.plan import UNIFORM
from layerlens.budget.prices import PriceList
from layerlens.budget.reach import lowest_reached
from layerlens.budget.sites import PlanSite
from layerlens.budget.uniform import uniform_sizes
from layerlens.words import ROLE_SETS, BudgetName, Method, depth_cuts

#: Two plans are near-duplicates when so small a share of their parameters lies in different places.
SAME_SHARE = 0.02


@dataclass(frozen=True)
class Candidate:
    """Sizes per site under a name that is safe in a file name."""

    name: str
    sizes: Int[np.ndarray, " sites"]


def structured(prices: PriceList, ranks: Sequence[int], limits: Mapping[BudgetName, float]) -> list[Candidate]:
    """Every structured plan that fits, uniform first, then by depth, then by set of roles.

    Uniform is over every layer that budgets of time and memory reach (`budget/reach.py`): over all of them without such a budget.
    """
    sites = prices.sites
    linear = [number for number, site in enumerate(sites) if site.method is Method.LORA and site.sizes]
    largest = np.array([site.sizes[-1] if site.sizes else 0 for site in sites], dtype=np.int64)

    def fits(sizes: Int[np.ndarray, " sites"]) -> bool:
        return prices.is_within(sizes, limits)

    def above(name: str, cut: int) -> list[int]:
        roles = {role.value for role in ROLE_SETS[name]}
        return [number for number in linear if (not roles or sites[number].role in roles) and (sites[number].block or 0) >= cut]

    lowest = {name: lowest_reached(prices, partial(above, name), limits) for name in ROLE_SETS}
    shares = depth_cuts(len(prices.bases) - 1)
    uniform, others = [], []
    for cut in sorted({*shares, *lowest.values()}):
        for name, start in lowest.items():
            if cut < start or (cut > start and cut not in shares):
                continue
            sizes = uniform_sizes(largest, above(name, cut), ranks, fits)
            if sizes is None:
                continue
            if name == "all" and cut == start:
                uniform.append(Candidate(UNIFORM, sizes))
            else:
                others.append(Candidate(name if cut == 0 else f"{name}@{cut}", sizes))
    return uniform + others


def distinct(candidates: Sequence[Candidate], sites: Sequence[PlanSite], *, limit: int, kept_first: int) -> list[Candidate]:
    """Merge near-duplicates into the first of them, and keep at most `limit`.

    Args:
        candidates: In order of preference; the first `kept_first` are always kept unless they are duplicates.
        sites: Their sites.
        limit: How many to keep.
        kept_first: How many at the front are not thinned out.

    Returns:
        What is left; of a list that is too long, the front and an even spread over the rest.
    """
    weights = np.array([site.params(1) if site.sizes else 0 for site in sites], dtype=np.float64)
    found: list[Candidate] = []
    for candidate in candidates:
        if not candidate.sizes.any():
            continue
        if not any(_is_same(candidate.sizes, other.sizes, weights) for other in found):
            found.append(candidate)
    if len(found) <= limit:
        return found
    front, rest = found[: min(kept_first, limit)], found[min(kept_first, limit) :]
    room = limit - len(front)
    positions = ((np.arange(room) + 0.5) * len(rest) / max(room, 1)).astype(np.int64).tolist()
    return front + [rest[position] for position in positions]


def _is_same(one: np.ndarray, other: np.ndarray, weights: np.ndarray) -> bool:
    moved = float((np.abs(one - other) * weights).sum())
    return moved <= SAME_SHARE * float((np.maximum(one, other) * weights).sum())
