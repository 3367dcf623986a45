"""Structured plans with bottleneck adapters and prefixes: each method alone, and mixes that a person would write.

What these methods are worth is known worse than LoRA's gain, so they race in plain forms beside the optima. Sources of the forms:

    adapter                 after every sublayer: Houlsby et al. (2019), arXiv 1902.00751
    adapter.mlp             after the MLPs alone: Pfeiffer et al. (2021), arXiv 2005.00247
    prefix                  on every attention: Li and Liang (2021), arXiv 2101.00190
    prefix+adapter.mlp      most of the budget on the MLPs: He et al. (2022), arXiv 2110.04366, section 4.6

and the same with LoRA in place of one part. A part is filled as uniform is: the largest size that fits everywhere, and the
next one on evenly spaced sites; a part that others follow gets its share of the parameters that are left.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from layerlens.budget.candidates import Candidate
from layerlens.budget.costs import DEPTH_BUDGETS
from layerlens.budget.prices import PriceList
from layerlens.budget.reach import smallest_sizes
from layerlens.budget.sites import PlanSite
from layerlens.budget.uniform import uniform_sizes
from layerlens.words import ROLE_SETS, BudgetName, Method, Role, depth_cuts


@dataclass(frozen=True)
class Part:
    """One method on some roles.

    Args:
        method: The method.
        roles: Of the layers it belongs to; empty for all.
        share: Of the parameters that it would take alone; the last part takes all that is left.
    """

    method: Method
    roles: frozenset[Role] = frozenset()
    share: float = 1.0


_AFTER_MLP = frozenset({Role.MLP_DOWN})
MIXES: dict[str, tuple[Part, ...]] = {
    "adapter": (Part(Method.ADAPTER),),
    "adapter.mlp": (Part(Method.ADAPTER, _AFTER_MLP),),
    "prefix": (Part(Method.PREFIX),),
    "prefix+all": (Part(Method.PREFIX, share=0.25), Part(Method.LORA)),
    "prefix+mlp": (Part(Method.PREFIX, share=0.25), Part(Method.LORA, ROLE_SETS["mlp"])),
    "prefix+adapter.mlp": (Part(Method.PREFIX, share=0.25), Part(Method.ADAPTER, _AFTER_MLP)),
    "attention+adapter.mlp": (Part(Method.LORA, ROLE_SETS["attention"], share=0.5), Part(Method.ADAPTER, _AFTER_MLP)),
}


def mixed(prices: PriceList, methods: Collection[Method], limits: Mapping[BudgetName, float]) -> Iterator[Candidate]:
    """Every plan above whose methods are allowed and that fits: as deep as budgets reach first, then above each depth cut."""
    allowed = {name: parts for name, parts in MIXES.items() if all(part.method in methods for part in parts)}
    lowest = {name: _reach(prices, parts, limits) for name, parts in allowed.items()}
    shares = depth_cuts(len(prices.bases) - 1)
    for cut in sorted({*shares, *lowest.values()}):
        for name, parts in allowed.items():
            if cut == lowest[name] or (cut > lowest[name] and cut in shares):
                sizes = _filled(prices, parts, cut, limits)
                if sizes is not None:
                    yield Candidate(name if cut == 0 else f"{name}@{cut}", sizes, is_deepest=cut == lowest[name])


def _reach(prices: PriceList, parts: Sequence[Part], limits: Mapping[BudgetName, float]) -> int:
    """The lowest block from which every member of every part gets a size; the highest where none does; 0 without such a budget.

    Found by bisection: a higher block is cheaper, so what is whole above one is whole above the next.
    """
    if not DEPTH_BUDGETS & limits.keys():
        return 0

    def is_whole(cut: int) -> bool:
        sizes, members = _filled(prices, parts, cut, limits), _members(prices, parts, cut)
        return sizes is not None and bool(members) and bool(sizes[members].all())

    return bisect_left(range(max(0, len(prices.bases) - 2)), True, key=is_whole)


def _members(prices: PriceList, parts: Sequence[Part], cut: int) -> list[int]:
    return [at for at, site in enumerate(prices.sites) if any(_is_in(site, part, cut) for part in parts)]


def _filled(
    prices: PriceList, parts: Sequence[Part], cut: int, limits: Mapping[BudgetName, float]
) -> Int[np.ndarray, " sites"] | None:
    """Sizes of all sites with every part in its share; none where a part does not fit at all."""
    largest = np.array([site.sizes[-1] if site.sizes else 0 for site in prices.sites], dtype=np.int64)
    taken = np.zeros(len(largest), dtype=np.int64)
    # Parts that follow keep room for their smallest sizes, where there is room for all.
    room = smallest_sizes(prices, _members(prices, parts, cut))
    if not prices.is_within(room, limits):
        room = np.zeros_like(room)
    for number, part in enumerate(parts):
        members = [at for at, site in enumerate(prices.sites) if _is_in(site, part, cut)]
        sizes_on_offer = sorted({size for at in members for size in prices.sites[at].sizes})
        room[members] = 0
        before = taken + room

        def fits(sizes: Int[np.ndarray, " sites"], before: Int[np.ndarray, " sites"] = before) -> bool:
            return prices.is_within(before + sizes, limits)

        found = uniform_sizes(largest, members, sizes_on_offer, fits)
        if found is not None and number + 1 < len(parts):
            limit = part.share * _params(prices, found)

            def fits_share(sizes: Int[np.ndarray, " sites"], limit: float = limit) -> bool:
                return _params(prices, sizes) <= limit

            found = uniform_sizes(largest, members, sizes_on_offer, fits_share)
        if found is None:
            return None
        taken = taken + found
    return taken


def _is_in(site: PlanSite, part: Part, cut: int) -> bool:
    if site.method is not part.method or not site.sizes or (site.block or 0) < cut:
        return False
    return not part.roles or site.role in {role.value for role in part.roles}


def _params(prices: PriceList, sizes: Int[np.ndarray, " sites"]) -> int:
    return sum(site.params(size) for site, size in zip(prices.sites, sizes.tolist(), strict=True))
