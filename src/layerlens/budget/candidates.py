"""The plans that race: the exact optimum under each value model, and structured plans that fill the same budgets.

A structured plan is uniform over a set of roles, above a depth cut. Gains of layers do not add up, and plans that a
person could have written have beaten additive optima, so measurement gets to choose among both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Int

from layerlens.artifacts.plan import UNIFORM
from layerlens.budget.prices import PriceList
from layerlens.budget.reach import lowest_reached
from layerlens.budget.sites import PlanSite
from layerlens.budget.uniform import even_sizes, uniform_sizes
from layerlens.words import ROLE_SETS, BudgetName, Method, depth_cuts

#: The set of roles that uniform is over.
_ALL = "all"
#: Two plans are near-duplicates when so small a share of their parameters lies in different places.
SAME_SHARE = 0.02


@dataclass(frozen=True)
class Candidate:
    """Sizes per site under a name that is safe in a file name; `is_deepest` where it goes as deep as its budgets reach."""

    name: str
    sizes: Int[np.ndarray, " sites"]
    is_deepest: bool = False


class _Shapes:
    """Plans that are uniform over a set of roles above a depth cut, under the same limits."""

    def __init__(self, prices: PriceList, ranks: Sequence[int], limits: Mapping[BudgetName, float]) -> None:
        self._prices, self._ranks, self._limits = prices, ranks, limits
        self._linear = [at for at, site in enumerate(prices.sites) if site.method is Method.LORA and site.sizes]
        self._largest = np.array([site.sizes[-1] if site.sizes else 0 for site in prices.sites], dtype=np.int64)

    def reach(self, name: str) -> int:
        """The lowest block that a set of roles can start at."""
        return lowest_reached(self._prices, partial(self._above, name), self._limits, self._even)

    def sizes(self, name: str, cut: int) -> Int[np.ndarray, " sites"] | None:
        """The budget spread over a set of roles above a cut."""

        def fits(sizes: Int[np.ndarray, " sites"]) -> bool:
            return self._prices.is_within(sizes, self._limits)

        return uniform_sizes(self._largest, self._above(name, cut), self._ranks, fits)

    def _above(self, name: str, cut: int) -> list[int]:
        sites, roles = self._prices.sites, {role.value for role in ROLE_SETS[name]}
        return [at for at in self._linear if (not roles or sites[at].role in roles) and (sites[at].block or 0) >= cut]

    def _even(self, members: Sequence[int], limits: Mapping[BudgetName, float]) -> Int[np.ndarray, " sites"] | None:
        return even_sizes(self._largest, members, self._ranks, lambda sizes: self._prices.is_within(sizes, limits))


def uniform_candidate(
    prices: PriceList, ranks: Sequence[int], limits: Mapping[BudgetName, float]
) -> tuple[Candidate | None, int]:
    """Uniform over every layer that budgets of depth reach (`budget/reach.py`), and the block it starts at.

    That block is 0 without such a budget; there is no candidate where not even the smallest rank on one layer fits.
    """
    shapes = _Shapes(prices, ranks, limits)
    reach = shapes.reach(_ALL)
    sizes = shapes.sizes(_ALL, reach)
    return (None if sizes is None else Candidate(UNIFORM, sizes, is_deepest=True)), reach


def structured(prices: PriceList, ranks: Sequence[int], limits: Mapping[BudgetName, float], *, reach: int) -> Iterator[Candidate]:
    """Every structured plan that fits beside uniform, which starts at block `reach`: by depth, then by set of roles."""
    shapes = _Shapes(prices, ranks, limits)
    lowest = {name: shapes.reach(name) for name in ROLE_SETS if name != _ALL} | {_ALL: reach}
    shares = depth_cuts(len(prices.bases) - 1)
    for cut in sorted({*shares, *lowest.values()}):
        for name in ROLE_SETS:
            is_deepest = cut == lowest[name]
            if (name == _ALL and is_deepest) or not (is_deepest or (cut > lowest[name] and cut in shares)):
                continue
            sizes = shapes.sizes(name, cut)
            if sizes is not None:
                yield Candidate(name if cut == 0 else f"{name}@{cut}", sizes, is_deepest=is_deepest)


def distinct(
    candidates: Sequence[Candidate], sites: Sequence[PlanSite], *, limit: int, kept_first: int, apart: Collection[str] = ()
) -> list[Candidate]:
    """Merge near-duplicates into the first of them, and keep at most `limit`.

    Args:
        candidates: In order of preference; the first `kept_first` are kept unless they are duplicates, as far as the limit is.
        sites: Their sites.
        limit: How many to keep; no fewer than there are names set apart.
        kept_first: How many at the front are not thinned out.
        apart: Names that are never merged into another nor thinned out, since something asks for them by name.

    Returns:
        What is left, in its order; of a list that is too long, the front and an even spread over the rest.
    """
    weights = np.array([site.params(1) if site.sizes else 0 for site in sites], dtype=np.float64)
    found: list[Candidate] = []
    for candidate in candidates:
        if not candidate.sizes.any():
            continue
        if candidate.name in apart or not any(_is_same(candidate.sizes, other.sizes, weights) for other in found):
            found.append(candidate)
    if len(found) <= limit:
        return found
    kept = [place for place, candidate in enumerate(found) if candidate.name in apart]
    kept += [place for place in range(min(kept_first, len(found))) if place not in kept][: limit - len(kept)]
    rest = [place for place in range(len(found)) if place not in kept]
    room = limit - len(kept)
    spread = ((np.arange(room) + 0.5) * len(rest) / max(room, 1)).astype(np.int64).tolist()
    return [found[place] for place in sorted([*kept, *(rest[position] for position in spread)])]


def _is_same(one: np.ndarray, other: np.ndarray, weights: np.ndarray) -> bool:
    moved = float((np.abs(one - other) * weights).sum())
    return moved <= SAME_SHARE * float((np.maximum(one, other) * weights).sum())
