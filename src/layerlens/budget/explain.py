"""Why each site got what it got: what it gains, what the next option up would bring, and what stopped it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Explained:
    """Why a plan is what it is.

    Attributes:
        reasons: One sentence per site, in their order.
        stopped_by: The budgets that some next option up which gains is too dear for, in the order of the limits.
    """

    reasons: list[str]
    stopped_by: list[BudgetName]


def explain(
    prices: PriceList,
    sizes: Int[np.ndarray, " sites"],
    values: Sequence[Float[np.ndarray, " _"]],
    limits: Mapping[BudgetName, float],
    *,
    shared: SharedCosts | None = None,
) -> Explained:
    """Look at the next option up of every site.

    Args:
        prices: Sites and costs.
        sizes: The plan.
        values: Value of each site's options, none first.
        limits: Budgets in the units of `plan.json`.
        shared: Where values are net of weighted costs, what options share of them; a gain below zero need not be noise then.
    """
    left = _Left.by(prices, sizes, limits)
    reasons: list[str] = []
    short: set[BudgetName] = set()
    for number, at in enumerate(prices.choice(sizes).tolist()):
        is_last = at == len(prices.sites[number].sizes)
        step = None if is_last else _next_step(prices, number, at, values[number], left, shared)
        reasons.append(_reason(prices, number, at, values[number], step, left, is_weighted=shared is not None))
        if step is not None and step.gain > 0:
            short.update(step.short)
    return Explained(reasons, [name for name in limits if name in short])


@dataclass(frozen=True)
class _Left:
    """What a plan leaves to a next option: room in each budget, the lowest block it adapts, the inputs it keeps already."""

    room: dict[BudgetName, int]
    lowest: int
    opened: set[int]

    @classmethod
    def by(cls, prices: PriceList, sizes: Int[np.ndarray, " sites"], limits: Mapping[BudgetName, float]) -> _Left:
        spent = prices.price(sizes)
        adapted = np.flatnonzero(sizes)
        return cls(
            room={name: in_units(name, limit) - spent[name] for name, limit in limits.items()},
            lowest=int(prices.blocks[adapted].min()) if len(adapted) else len(prices.bases) - 1,
            opened=set(prices.groups[adapted].tolist()),
        )


@dataclass(frozen=True)
class _Step:
    """The next option up of one site: what it gains, what it adds to the plan, and the budgets that are too short for it."""

    gain: float
    paid: float
    extra: dict[BudgetName, int]
    short: list[BudgetName]


def _next_step(
    prices: PriceList,
    number: int,
    at: int,
    values: Float[np.ndarray, " options"],
    left: _Left,
    shared: SharedCosts | None,
) -> _Step:
    paid = 0.0
    if at == 0 and shared is not None:
        paid = shared.of_first_option(int(prices.blocks[number]), int(prices.groups[number]), left.lowest, left.opened)
    extra = _extra(prices, number, at, left.lowest, left.opened)
    short = [name for name, room in left.room.items() if extra[name] > room]
    return _Step(float(values[at + 1] - values[at]) - paid, paid, extra, short)


def _reason(
    prices: PriceList,
    number: int,
    at: int,
    values: Float[np.ndarray, " options"],
    step: _Step | None,
    left: _Left,
    *,
    is_weighted: bool,
) -> str:
    site = prices.sites[number]
    if not site.sizes:
        return f"no {site.method} of the sizes allowed fits this layer"
    gains = f"predicted to gain {values[at]:.3g}" if at else "none"
    if step is None:
        return f"{gains}; {site.sizes[at - 1]} is the largest size allowed"
    goal = f"{site.method} {site.sizes[at]}"
    if step.gain <= 0:
        if at == 0 and float(values.max()) <= step.paid:
            return f"none: {'it costs more than it gains' if is_weighted else 'no gain beyond noise was found'}"
        return f"{gains}; {goal} would gain nothing more"
    depth = f" and a backward pass down to block {site.block or 0}" if at == 0 and prices.blocks[number] < left.lowest else ""
    priced = ", ".join(f"{from_units(name, step.extra[name]):,.6g} {UNIT_NAMES[name]}" for name in left.room)
    stopped = (
        f"only {', '.join(f'{from_units(name, left.room[name]):,.6g} {UNIT_NAMES[name]}' for name in step.short)} left"
        if step.short
        else "it would fit, but this plan was not made by these gains"
    )
    return f"{gains}; {goal} would gain {step.gain:.3g} more for {priced}{depth}: {stopped}"


def _extra(prices: PriceList, number: int, at: int, lowest: int, opened: set[int]) -> dict[BudgetName, int]:
    """What the next option up adds to a plan, with the input it keeps and the blocks it lets the backward pass into."""
    extra = prices.options[:, number, at + 1] - prices.options[:, number, at]
    if at == 0:
        extra = extra + prices.bases[min(lowest, int(prices.blocks[number]))] - prices.bases[lowest]
        if int(prices.groups[number]) not in opened:
            extra[prices.names.index(BudgetName.VRAM_BYTES)] += prices.kept[number]
    return dict(zip(prices.names, extra.tolist(), strict=True))
