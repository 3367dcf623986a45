"""Why each site got what it got: what it gains, what the next option up would bring, and what stopped it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from layerlens.budget.costs import from_units, in_units
from layerlens.budget.prices import PriceList
from layerlens.budget.shared_costs import SharedCosts
from layerlens.words import BudgetName

UNIT_NAMES = {
    BudgetName.TRAINABLE_PARAMS: "parameters",
    BudgetName.FLOPS: "FLOPs per token",
    BudgetName.VRAM_BYTES: "bytes of training memory",
    BudgetName.LATENCY_MS: "ms of latency",
    BudgetName.TIME_RATIO: "of full fine-tuning's time",
}


def reasons(
    prices: PriceList,
    sizes: Int[np.ndarray, " sites"],
    values: Sequence[Float[np.ndarray, " _"]],
    limits: Mapping[BudgetName, float],
    *,
    shared: SharedCosts | None = None,
) -> list[str]:
    """One sentence per site, in their order.

    Args:
        prices: Sites and costs.
        sizes: The plan.
        values: Value of each site's options, none first.
        limits: Budgets in the units of `plan.json`.
        shared: Where values are net of weighted costs, what options share of them; a gain below zero need not be noise then.
    """
    spent = prices.price(sizes)
    room = {name: in_units(name, limit) - spent[name] for name, limit in limits.items()}
    adapted = np.flatnonzero(sizes)
    lowest = int(prices.blocks[adapted].min()) if len(adapted) else len(prices.bases) - 1
    opened = set(prices.groups[adapted].tolist())
    return [
        _reason(prices, number, int(prices.choice(sizes)[number]), values[number], room, lowest, opened, shared)
        for number in range(len(prices.sites))
    ]


def _reason(
    prices: PriceList,
    number: int,
    at: int,
    values: Float[np.ndarray, " options"],
    room: Mapping[BudgetName, int],
    lowest: int,
    opened: set[int],
    shared: SharedCosts | None,
) -> str:
    site = prices.sites[number]
    if not site.sizes:
        return f"no {site.method} of the sizes allowed fits this layer"
    gains = f"predicted to gain {values[at]:.3g}" if at else "none"
    if at == len(site.sizes):
        return f"{gains}; {site.sizes[at - 1]} is the largest size allowed"
    paid = 0.0
    if at == 0 and shared is not None:
        paid = shared.of_first_option(int(prices.blocks[number]), int(prices.groups[number]), lowest, opened)
    step = float(values[at + 1] - values[at]) - paid
    goal = f"{site.method} {site.sizes[at]}"
    if step <= 0:
        if at == 0 and float(values.max()) <= paid:
            return f"none: {'no gain beyond noise was found' if shared is None else 'it costs more than it gains'}"
        return f"{gains}; {goal} would gain nothing more"
    extra = _extra(prices, number, at, lowest, opened)
    short = [name for name in room if extra[name] > room[name]]
    depth = f" and a backward pass down to block {site.block or 0}" if at == 0 and prices.blocks[number] < lowest else ""
    priced = ", ".join(f"{from_units(name, extra[name]):,.6g} {UNIT_NAMES[name]}" for name in room)
    stopped = (
        f"only {', '.join(f'{from_units(name, room[name]):,.6g} {UNIT_NAMES[name]}' for name in short)} left"
        if short
        else "it would fit, but this plan spends evenly"
    )
    return f"{gains}; {goal} would gain {step:.3g} more for {priced}{depth}: {stopped}"


def _extra(prices: PriceList, number: int, at: int, lowest: int, opened: set[int]) -> dict[BudgetName, int]:
    """What the next option up adds to a plan, with the input it keeps and the blocks it lets the backward pass into."""
    extra = prices.options[:, number, at + 1] - prices.options[:, number, at]
    if at == 0:
        extra = extra + prices.bases[min(lowest, int(prices.blocks[number]))] - prices.bases[lowest]
        if int(prices.groups[number]) not in opened:
            extra[prices.names.index(BudgetName.VRAM_BYTES)] += prices.kept[number]
    return dict(zip(prices.names, extra.tolist(), strict=True))
