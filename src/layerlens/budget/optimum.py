"""The exact optimum under one value model: one knapsack, or one per depth cut where a budget or weighted cost depends on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from layerlens.budget.costs import DEPTH_BUDGETS, in_units
from layerlens.budget.knapsack import Knapsack
from layerlens.budget.prices import PriceList
from layerlens.budget.shared_costs import SharedCosts
from layerlens.budget.solver import INFEASIBLE, OPTIMAL, TOLERANCE, relative_gap, solve
from layerlens.errors import InfeasibleBudgetError
from layerlens.words import BudgetName

#: Prices tried per budget for the quick bounds.
NUM_PRICES = 64


@dataclass(frozen=True)
class Optimum:
    """Sizes per site, their value, and the bound over all cuts that proves it."""

    sizes: Int[np.ndarray, " sites"]
    value: float
    bound: float
    gap: float
    status: str


def optimise(
    prices: PriceList,
    values: Sequence[Float[np.ndarray, " _"]],
    limits: Mapping[BudgetName, float],
    shared: SharedCosts | None = None,
) -> Optimum:
    """Find the best sizes within every limit.

    Args:
        prices: The sites and what their options cost.
        values: Value of each site's options, none first.
        limits: Budgets in the units of `plan.json`; at least one.
        shared: What objective weights subtract for costs that options share; nothing if not given.

    Returns:
        The optimum over all depth cuts: the values of its options less what they share.

    Raises:
        InfeasibleBudgetError: the fixed costs alone are over a limit at every cut.
    """
    names = list(limits)
    rows = [prices.names.index(name) for name in names]
    whole = np.array([in_units(name, limits[name]) for name in names], dtype=np.int64)
    shared = shared or SharedCosts.of(prices)
    is_by_cut = bool(DEPTH_BUDGETS & set(names)) or shared.depends_on_depth
    num_cuts = max(1, len(prices.bases) - 1) if is_by_cut else 1
    has_options = np.array([bool(site.sizes) for site in prices.sites])
    best: Optimum | None = None
    bound, statuses = 0.0, set()
    quick = _quick_bounds(prices, values, rows, whole - prices.bases[:num_cuts, rows]) - shared.by_cut[:num_cuts]
    for cut in np.argsort(-quick, kind="stable").tolist():
        room = whole - prices.bases[cut, rows]
        inside = np.flatnonzero((prices.blocks >= cut) & has_options)
        if (room < 0).any() or not len(inside):
            continue
        # A cut whose bound is no better than a plan already found needs no plan of its own.
        cutoff = -np.inf if best is None else best.value
        if quick[cut] <= cutoff:
            continue
        solution = solve(_knapsack(prices, values, shared, cut, inside, rows, room), cutoff=cutoff)
        if solution.status != INFEASIBLE:
            bound = max(bound, solution.bound)
            statuses.add(solution.status)
        if solution.choice is not None and (best is None or solution.value > best.value):
            sizes = np.zeros(len(prices.sites), dtype=np.int64)
            for number, option in zip(inside.tolist(), solution.choice[: len(inside)].tolist(), strict=True):
                sizes[number] = prices.sites[number].sizes[option - 1] if option else 0
            best = Optimum(sizes, solution.value, solution.bound, solution.gap, solution.status)
    if best is None:
        raise InfeasibleBudgetError("no plan fits: the model alone is over a budget at every depth; raise the budgets")
    # Adapting nothing is worth 0, and where every plan costs more than it gains that is the most.
    sizes = _levelled(prices, values, shared, best.sizes, limits) if best.value >= 0 else np.zeros_like(best.sizes)
    value = _total(prices, values, shared, sizes)
    bound = max(bound, value)
    gap = relative_gap(value, bound)
    status = OPTIMAL if gap <= TOLERANCE else next(iter(sorted(statuses - {OPTIMAL})), OPTIMAL)
    return Optimum(sizes, value, bound, gap, status)


def _quick_bounds(
    prices: PriceList,
    values: Sequence[Float[np.ndarray, " _"]],
    rows: Sequence[int],
    rooms: Int[np.ndarray, "cuts budgets"],
) -> Float[np.ndarray, " cuts"]:
    """What no plan at each cut can exceed: Σ_sites max_option (value - λ cost) + λ room, for every budget and some λ.

    Any λ >= 0 gives a bound; a coarse grid is enough to rule out most cuts. Charges are left out, which only raises it.
    """
    padded = np.full(prices.options.shape[1:], -np.inf)
    for number, entry in enumerate(values):
        padded[number, : len(entry)] = entry
    # Sites at or above a cut.
    is_above = (prices.blocks >= np.arange(len(rooms))[:, None]).astype(np.float64)
    bounds = is_above @ padded.max(axis=1)
    for place, row in enumerate(rows):
        costs = prices.options[row]
        is_priced = (padded > 0) & (costs > 0)
        if not is_priced.any():
            continue
        ratios = padded[is_priced] / costs[is_priced]
        for price in np.geomspace(ratios.min(), ratios.max(), NUM_PRICES):
            bounds = np.minimum(bounds, is_above @ (padded - price * costs).max(axis=1) + price * np.maximum(rooms[:, place], 0))
    # Sums in another order may differ in their last digits.
    return bounds + 1e-12 * np.abs(bounds)


def _levelled(
    prices: PriceList,
    values: Sequence[Float[np.ndarray, " _"]],
    shared: SharedCosts,
    sizes: Int[np.ndarray, " sites"],
    limits: Mapping[BudgetName, float],
) -> Int[np.ndarray, " sites"]:
    """Even out sites of one role that nothing tells apart, where that loses no value and no budget.

    Curves with straight pieces have many optima; a person expects equal layers to be treated alike.
    """
    alike: dict[tuple[str, bytes, bytes], list[int]] = {}
    for number, site in enumerate(prices.sites):
        key = (f"{site.role} {site.method} {site.sizes}", values[number].tobytes(), prices.options[:, number].tobytes())
        alike.setdefault(key, []).append(number)
    choice = prices.choice(sizes)
    for members in alike.values():
        while True:
            low = min(members, key=lambda number: (choice[number], number))
            high = max(members, key=lambda number: (choice[number], number))
            if choice[high] - choice[low] < 2:
                break
            curve = values[low]
            lost = curve[choice[high]] - curve[choice[high] - 1]
            won = curve[choice[low] + 1] - curve[choice[low]]
            moved = sizes.copy()
            moved[low], moved[high] = prices.sites[low].sizes[choice[low]], prices.sites[high].sizes[choice[high] - 2]
            paid = shared.total(prices, moved) - shared.total(prices, sizes)
            if won - paid < lost or not prices.is_within(moved, limits):
                break
            sizes, choice = moved, prices.choice(moved)
    return sizes


def _total(
    prices: PriceList, values: Sequence[Float[np.ndarray, " _"]], shared: SharedCosts, sizes: Int[np.ndarray, " sites"]
) -> float:
    """What a whole plan is worth, correctly rounded."""
    own = (float(entry[at]) for entry, at in zip(values, prices.choice(sizes).tolist(), strict=True))
    return math.fsum([*own, -shared.total(prices, sizes)])


def _knapsack(
    prices: PriceList,
    values: Sequence[Float[np.ndarray, " _"]],
    shared: SharedCosts,
    cut: int,
    inside: Int[np.ndarray, " groups"],
    rows: Sequence[int],
    limits: Int[np.ndarray, " budgets"],
) -> Knapsack:
    """Sites as groups, padded to one number of options; a shared input is a charge and a fee paid once per group of sites.

    Where the backward pass down to the cut takes value away, one group more, which has to take it, stands last: so the solver's
    bound and its relative gap are those of the plan's own value.
    """
    num_options = max(len(values[number]) for number in inside)
    padded = np.full((len(inside), num_options), -np.inf)
    for place, number in enumerate(inside.tolist()):
        padded[place, : len(values[number])] = values[number]
    costs = prices.options[rows][:, inside, :num_options]
    opened, bundle_of = np.unique(prices.groups[inside], return_inverse=True)
    charges = np.zeros((len(rows), len(opened)), dtype=np.int64)
    fees = shared.by_input[opened]
    vram = prices.names.index(BudgetName.VRAM_BYTES)
    if vram in rows:
        charges[list(rows).index(vram), bundle_of] = prices.kept[inside]
    if shared.by_cut[cut]:
        depth = np.full((1, num_options), -np.inf)
        depth[0, 1] = -shared.by_cut[cut]
        padded = np.concatenate([padded, depth])
        costs = np.concatenate([costs, np.zeros((len(rows), 1, num_options), dtype=np.int64)], axis=1)
        bundle_of = np.append(bundle_of, -1)
    return Knapsack.of(padded, costs, limits, bundle_of=bundle_of.astype(np.int64), charges=charges, fees=fees)
