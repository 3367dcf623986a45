"""Whether any plan at all fits, and if not, the smallest budget that would do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from layerlens.budget.costs import PER_MS, PER_RATIO, in_units
from layerlens.budget.prices import PriceList
from layerlens.errors import ConfigError, InfeasibleBudgetError
from layerlens.words import BudgetName

_FLAGS = {
    BudgetName.TRAINABLE_PARAMS: "--max-trainable-params",
    BudgetName.FLOPS: "--max-flops",
    BudgetName.VRAM_BYTES: "--max-vram-gb",
    BudgetName.LATENCY_MS: "--latency-target-ms",
    BudgetName.TIME_RATIO: "--max-time-ratio",
}


def check_feasible(prices: PriceList, limits: Mapping[BudgetName, float], *, max_utilisation: float = 1.0) -> None:
    """Refuse budgets under which not even one smallest option fits.

    Args:
        prices: Where options may sit, and what they cost.
        limits: Budgets as they were set, in the units of `plan.json`.
        max_utilisation: Share of each budget that may be spent.

    Raises:
        ConfigError: no site has any option.
        InfeasibleBudgetError: names budgets that are enough, where possible by raising only those that are too small.
    """
    plans = []
    for number, site in enumerate(prices.sites):
        if site.sizes:
            sizes = np.zeros(len(prices.sites), dtype=np.int64)
            sizes[number] = site.sizes[0]
            plans.append(prices.price(sizes))
    if not plans:
        raise ConfigError("no layer can take any of the methods at the sizes allowed; allow lora, or a smaller --min-rank")
    whole = {name: in_units(name, limit * max_utilisation) for name, limit in limits.items()}
    if _fits_any(plans, whole):
        return
    least = {name: min(plan[name] for plan in plans) for name in whole}
    short = [name for name in whole if least[name] > whole[name]]
    if short and _fits_any(plans, {name: max(whole[name], least[name]) for name in whole}):
        raise InfeasibleBudgetError.of(
            [
                f"{_FLAGS[name]}: {_asked(name, limits[name]):.12g} is too small; "
                f"the smallest feasible is {_enough(name, least[name], max_utilisation)}"
                for name in short
            ]
        )
    # Each budget can be met alone but no option meets all: say what the option nearest to doing so needs.
    nearest = min(plans, key=lambda plan: max(plan[name] / max(limit, 1) for name, limit in whole.items()))
    needed = ", ".join(f"{_FLAGS[name]} {_enough(name, nearest[name], max_utilisation)}" for name in whole)
    raise InfeasibleBudgetError(f"no option fits all budgets at once; the nearest one needs {needed}")


def _fits_any(plans: Sequence[Mapping[BudgetName, int]], whole: Mapping[BudgetName, int]) -> bool:
    return any(all(plan[name] <= limit for name, limit in whole.items()) for plan in plans)


def _asked(name: BudgetName, limit: float) -> float:
    """A limit in the unit that its flag takes."""
    return limit / 2**30 if name is BudgetName.VRAM_BYTES else limit


def _enough(name: BudgetName, cost: int, max_utilisation: float) -> str:
    """The smallest budget under which a cost fits, as a person would type it: rounded up."""
    per_unit, digits = {
        BudgetName.VRAM_BYTES: (2**30, 4),
        BudgetName.LATENCY_MS: (PER_MS, 6),
        BudgetName.TIME_RATIO: (PER_RATIO, 6),
    }.get(name, (1, 0))
    step = math.ceil(cost / per_unit / max_utilisation * 10**digits)
    while in_units(name, step / 10**digits * (2**30 if per_unit == 2**30 else 1) * max_utilisation) < cost:
        # A step of one would be lost to rounding where floats lie further apart.
        step += max(1, step >> 48)
    return f"{step / 10**digits:.{digits}f}"
