"""Small models to plan: three blocks, four ranks, few enough plans to try them all."""

from __future__ import annotations

import numpy as np

from examples.synthetic_profile import Shape, SyntheticProfile, synthesise
from layerlens.budget.costs import CostModel, cost_model, from_units
from layerlens.budget.prices import PriceList
from layerlens.budget.sites import plan_sites
from layerlens.config import OptimizationConfig
from layerlens.words import BudgetName, Role

SMALL = Shape(blocks=3, hidden=40, inner=160, kv=20, heads=4, other_parameters=5000, head_parameters=328)


def small(seed: int = 0, *, shape: Shape = SMALL, num_ranks: int | None = None) -> SyntheticProfile:
    """Random sensitivities."""
    rng = np.random.default_rng(seed)
    places = [(block, role) for block in range(shape.blocks) for role in shape.layers]
    return synthesise({place: float(rng.uniform(0.1, 1.0)) for place in places}, shape=shape, num_ranks=num_ranks)


def keep_roles(made: SyntheticProfile, roles: set[Role]) -> SyntheticProfile:
    """The same model with fewer planned layers."""
    layers = [layer for layer in made.profile.layers if layer.role in roles]
    return SyntheticProfile(made.profile.model_copy(update={"layers": layers}), made.arrays, made.timing)


def priced(made: SyntheticProfile, config: OptimizationConfig) -> tuple[CostModel, PriceList]:
    costs = cost_model(made.profile, made.timing, config)
    return costs, PriceList.of(costs, plan_sites(made.profile, config))


def by_hand(costs: CostModel, prices: PriceList, sizes: np.ndarray) -> dict[BudgetName, float]:
    """Spend of a plan, one option after another, in the units of `plan.json`."""
    chosen = [(site, int(size)) for site, size in zip(prices.sites, sizes, strict=True) if size]
    cut = min((site.block or 0 for site, _ in chosen), default=costs.num_blocks)
    total = dict(costs.base(cut))
    seen: set[str] = set()
    for site, size in chosen:
        for name, cost in costs.option(site, size).items():
            total[name] += cost
        if site.input_group not in seen:
            seen.add(site.input_group)
            total[BudgetName.VRAM_BYTES] += costs.kept_input(site)
    return {name: from_units(name, cost) for name, cost in total.items()}
