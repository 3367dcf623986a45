"""Prices of every option of a model in one table, so that a whole plan is priced exactly in microseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from layerlens.budget.costs import CostModel, in_units
from layerlens.budget.knapsack import LARGEST_SUM
from layerlens.budget.sites import PlanSite
from layerlens.errors import ConfigError
from layerlens.words import BudgetName


@dataclass(frozen=True)
class PriceList:
    """What everything costs, in the integer units of `costs`.

    Args:
        sites: The sites, in the order of all axes.
        names: Budgets, in the order of all first axes.
        options: int64 [budgets, sites, options]; none first, zero beyond a site's last option.
        positions: int64 [sites, size]; which option a size is; 0 is none.
        kept: int64 [sites]; bytes of the input that a shared-input group keeps once.
        groups: int64 [sites]; the group of each site.
        blocks: int64 [sites]; block of each site, 0 outside the blocks.
        bases: int64 [cuts, budgets]; cost before any option by lowest adapted block, the last one for none at all.
    """

    sites: tuple[PlanSite, ...]
    names: tuple[BudgetName, ...]
    options: Int[np.ndarray, "budgets sites options"]
    positions: Int[np.ndarray, "sites sizes"]
    kept: Int[np.ndarray, " sites"]
    groups: Int[np.ndarray, " sites"]
    blocks: Int[np.ndarray, " sites"]
    bases: Int[np.ndarray, "cuts budgets"]

    @classmethod
    def of(cls, costs: CostModel, sites: Sequence[PlanSite]) -> PriceList:
        """Price every option of every site once.

        Raises:
            ConfigError: batch and length make costs that cannot be added up exactly.
        """
        _check_range(costs, sites)
        names = costs.names
        options = np.zeros((len(names), len(sites), 1 + max(len(site.sizes) for site in sites)), dtype=np.int64)
        largest = max((size for site in sites for size in site.sizes), default=0)
        positions = np.zeros((len(sites), 1 + largest), dtype=np.int64)
        for number, site in enumerate(sites):
            positions[number, list(site.sizes)] = range(1, 1 + len(site.sizes))
            priced = costs.options(site, site.sizes)
            options[:, number, 1 : 1 + len(site.sizes)] = [priced[name] for name in names]
        group_of = {group: number for number, group in enumerate(dict.fromkeys(site.input_group for site in sites))}
        bases = [costs.base(cut) for cut in range(costs.num_blocks + 1)]
        return cls(
            sites=tuple(sites),
            names=names,
            options=options,
            positions=positions,
            kept=np.array([costs.kept_input(site) for site in sites], dtype=np.int64),
            groups=np.array([group_of[site.input_group] for site in sites], dtype=np.int64),
            blocks=np.array([site.block or 0 for site in sites], dtype=np.int64),
            bases=np.array([[base[name] for name in names] for base in bases], dtype=np.int64),
        )

    def choice(self, sizes: Int[np.ndarray, " sites"]) -> Int[np.ndarray, " sites"]:
        """Index of each site's option; 0 is none."""
        return self.positions[np.arange(len(sizes)), sizes]

    def price(self, sizes: Int[np.ndarray, " sites"]) -> dict[BudgetName, int]:
        """Exact spend of a whole plan, base included, at its own cut."""
        adapted = np.flatnonzero(sizes)
        cut = int(self.blocks[adapted].min()) if len(adapted) else len(self.bases) - 1
        spent = self.bases[cut] + self.options[:, np.arange(len(sizes)), self.choice(sizes)].sum(axis=1)
        _, first = np.unique(self.groups[adapted], return_index=True)
        spent[self.names.index(BudgetName.VRAM_BYTES)] += self.kept[adapted[first]].sum()
        return dict(zip(self.names, spent.tolist(), strict=True))

    def is_within(self, sizes: Int[np.ndarray, " sites"], limits: Mapping[BudgetName, float]) -> bool:
        """Whether a plan keeps every budget."""
        spent = self.price(sizes)
        return all(spent[name] <= in_units(name, limit) for name, limit in limits.items())


def _check_range(costs: CostModel, sites: Sequence[PlanSite]) -> None:
    """Refuse a batch whose costs leave the range that sums are exact in; in Python's integers, which know no range.

    An option's inner activation is no wider than the input that is kept for it; a prefix may need a mask of all token pairs.
    """
    largest = max(costs.base(0).values()) + 2 * sum(costs.kept_input(site) for site in sites) + 8 * costs.length**2
    if largest >= LARGEST_SUM:
        raise ConfigError(
            f"--batch-size {costs.batch_size:,} at {costs.length:,} tokens per sample: costs of up to {largest:.3g} cannot be "
            f"added up exactly, at most {LARGEST_SUM:.3g} can; give a smaller --batch-size or --length"
        )
