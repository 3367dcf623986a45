"""What objective weights subtract for costs that belong to no single option: those that a plan's options share.

The backward pass down to the lowest adapted block is paid once for all layers above it, and the input that several layers
read is kept once for all of them. Both count from a model that adapts nothing, so that adapting nothing is worth 0:

    shared(plan) = Σ_k rate_k · (base_k(lowest adapted block) - base_k(none)) + rate_vram · Σ_inputs kept

with rate_k = weight_k / whole_k of `values.cost_rates`. Without objective weights every rate is zero, and so is this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from layerlens.budget.prices import PriceList
from layerlens.words import BudgetName


@dataclass(frozen=True)
class SharedCosts:
    """Shared costs in the unit of values.

    Args:
        by_cut: float64 [cuts]; of the backward pass, by lowest adapted block; the last one, none at all, is 0.
        by_input: float64 [inputs]; of the input that a shared-input group keeps, by the group's number in the prices.
    """

    by_cut: Float[np.ndarray, " cuts"]
    by_input: Float[np.ndarray, " inputs"]

    @classmethod
    def of(cls, prices: PriceList, rates: Mapping[BudgetName, float] | None = None) -> SharedCosts:
        """Weigh what options share.

        Args:
            prices: What everything costs.
            rates: Value that one unit of a cost takes away; none for values that stand for themselves.
        """
        rates = rates or {}
        per_unit = np.array([rates.get(name, 0.0) for name in prices.names])
        added = (prices.bases - prices.bases[-1]).astype(np.float64)
        by_input = np.zeros(int(prices.groups.max(initial=-1)) + 1)
        by_input[prices.groups] = rates.get(BudgetName.VRAM_BYTES, 0.0) * prices.kept
        return cls((added * per_unit).sum(axis=1), by_input)

    @property
    def depends_on_depth(self) -> bool:
        """Whether one lowest block is dearer than another."""
        return bool(self.by_cut.any())

    def total(self, prices: PriceList, sizes: Int[np.ndarray, " sites"]) -> float:
        """What a whole plan's shared costs take away, at its own cut."""
        adapted = np.flatnonzero(sizes)
        if not len(adapted):
            return 0.0
        opened = np.unique(prices.groups[adapted])
        return float(self.by_cut[prices.blocks[adapted].min()] + self.by_input[opened].sum())

    def of_first_option(self, block: int, group: int, lowest: int, opened: set[int]) -> float:
        """What a first option in a block adds to a plan that goes down to `lowest` and keeps the inputs `opened`."""
        deeper = float(self.by_cut[min(lowest, block)] - self.by_cut[lowest])
        return deeper + (0.0 if group in opened else float(self.by_input[group]))
