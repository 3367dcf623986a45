from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from examples.synthetic_profile import Shape, synthesise
from layerlens.budget.costs import CostModel, from_units, limits_of
from layerlens.budget.optimum import optimise
from layerlens.budget.shared_costs import SharedCosts
from layerlens.budget.sites import PlanSite
from layerlens.budget.values import COST_OF_TERM, ValueModel, cost_rates, site_values
from layerlens.config import PREDECESSOR_WEIGHTS, OptimizationConfig
from layerlens.errors import InfeasibleBudgetError
from layerlens.words import BudgetName, Role
from tests.unit.budget.small_models import by_hand, keep_roles, priced, small

THREE_ROLES = {Role.ATTENTION_QUERY, Role.ATTENTION_VALUE, Role.MLP_DOWN}

#: Limits, as shares of the way from adapting nothing to adapting everything.
BUDGETS = [
    {BudgetName.TRAINABLE_PARAMS: 0.3},
    {BudgetName.FLOPS: 0.6},
    {BudgetName.VRAM_BYTES: 0.5},
    {BudgetName.TIME_RATIO: 0.6},
    {BudgetName.LATENCY_MS: 0.4},
    {BudgetName.TRAINABLE_PARAMS: 0.4, BudgetName.VRAM_BYTES: 0.6, BudgetName.TIME_RATIO: 0.65},
]


def spend_of_all(costs: CostModel, sites: Sequence[PlanSite], plans: np.ndarray) -> dict[BudgetName, np.ndarray]:
    """Spend of every plan [plans, sites], added up budget by budget from the prices of single options."""
    blocks = np.array([site.block for site in sites])
    cuts = np.where(plans > 0, blocks, costs.num_blocks).min(axis=1)
    bases = [costs.base(cut) for cut in range(costs.num_blocks + 1)]
    spent = {name: np.array([base[name] for base in bases])[cuts] for name in costs.names}
    for number, site in enumerate(sites):
        for size in site.sizes:
            for name, cost in costs.option(site, size).items():
                spent[name] += np.where(plans[:, number] == size, cost, 0)
    for group in {site.input_group for site in sites}:
        members = [number for number, site in enumerate(sites) if site.input_group == group]
        is_open = (plans[:, members] > 0).any(axis=1)
        spent[BudgetName.VRAM_BYTES] += np.where(is_open, costs.kept_input(sites[members[0]]), 0)
    return spent


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shares", BUDGETS)
def test_the_optimum_is_that_of_exhaustive_search_over_all_plans_and_cuts(shares: dict[BudgetName, float], seed: int) -> None:
    made = keep_roles(small(seed), THREE_ROLES)
    config = OptimizationConfig(max_trainable_params=1, max_rank=2, length=16, batch_size=2)
    costs, prices = priced(made, config)
    values = site_values(ValueModel.WHITENED, prices.sites, made.profile, made.arrays, config, costs)
    plans = np.array(list(itertools.product(range(3), repeat=len(prices.sites))))
    spent = spend_of_all(costs, prices.sites, plans)
    whole = {name: round(spent[name][0] + share * (spent[name][-1] - spent[name][0])) for name, share in shares.items()}
    fits = np.all([spent[name] <= limit for name, limit in whole.items()], axis=0)
    assert 1 < fits.sum() < len(plans)
    worth = np.sum([values[number][plans[:, number]] for number in range(len(prices.sites))], axis=0)
    best = float(worth[fits].max())
    limits = {name: float(from_units(name, limit)) for name, limit in whole.items()}
    found = optimise(prices, values, limits)
    assert found.value == pytest.approx(best, rel=1e-9)
    assert best * (1 - 1e-12) <= found.bound <= best * (1 + 1e-6)
    assert found.gap <= 1e-6
    assert found.status == "optimal"
    spent_by_hand = by_hand(costs, prices, found.sizes)
    assert all(spent_by_hand[name] <= limit for name, limit in limits.items())


#: Weights, a share of all parameters, and whether what plans share decides: depth, kept inputs, both, nothing worth its costs.
WEIGHED = [
    ({"utility": 0.5, "flops": 0.5}, 0.3),
    ({"utility": 0.5, "vram": 0.5}, 0.6),
    ({"utility": 0.3, "flops": 0.6, "vram": 0.1}, 0.3),
    (PREDECESSOR_WEIGHTS, 0.6),
    ({"utility": 0.1, "flops": 0.9}, 0.3),
]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("weights", "share"), WEIGHED)
def test_under_objective_weights_the_optimum_counts_what_a_plan_really_costs(
    weights: dict[str, float], share: float, seed: int
) -> None:
    made = keep_roles(small(seed), THREE_ROLES)
    options = {"max_trainable_params": 1, "max_rank": 2, "length": 16, "batch_size": 2}
    plain = OptimizationConfig.model_validate(options)
    costs, prices = priced(made, plain)
    plans = np.array(list(itertools.product(range(3), repeat=len(prices.sites))))
    spent = spend_of_all(costs, prices.sites, plans)
    limit = int(share * spent[BudgetName.TRAINABLE_PARAMS].max())
    config = plain.model_copy(update={"max_trainable_params": limit, "objective_weights": weights})
    gains = site_values(ValueModel.WHITENED, prices.sites, made.profile, made.arrays, plain, costs)
    worth = np.sum([gains[number][plans[:, number]] for number in range(len(prices.sites))], axis=0)
    worth *= weights["utility"] / sum(entry.max() for entry in gains)
    whole = {**costs.full(), BudgetName.TRAINABLE_PARAMS: limit}
    for term, weight in weights.items():
        if term != "utility":
            name = COST_OF_TERM[term]
            worth -= weight * (spent[name] - spent[name][0]) / whole[name]
    best = float(worth[spent[BudgetName.TRAINABLE_PARAMS] <= limit].max())
    values = site_values(ValueModel.WHITENED, prices.sites, made.profile, made.arrays, config, costs)
    shared = SharedCosts.of(prices, cost_rates(config, costs))
    found = optimise(prices, values, limits_of(config), shared)
    assert found.value == pytest.approx(best, rel=1e-6, abs=1e-12)
    assert found.value == pytest.approx(worth[(plans == found.sizes).all(axis=1)][0], abs=1e-12)
    assert best - 1e-12 <= found.bound <= best + 1e-6 * abs(best) + 1e-12
    assert found.status == "optimal"


def test_curves_with_straight_pieces_still_treat_equal_layers_alike() -> None:
    shape = Shape(blocks=6, hidden=80, inner=160, kv=80, heads=4, other_parameters=5000, head_parameters=0)
    roles = [Role.ATTENTION_QUERY, Role.ATTENTION_VALUE]
    made = synthesise({(block, role): 1.0 for block in range(6) for role in roles}, shape=shape)
    straight = {name: np.arange(1, 9) * 1e-3 for name in made.arrays if name.startswith("gain/")}
    config = OptimizationConfig(max_trainable_params=35 * 160)
    made = keep_roles(made, set(roles))
    costs, prices = priced(made, config)
    values = site_values(ValueModel.WHITENED, prices.sites, made.profile, straight, config, costs)
    found = optimise(prices, values, limits_of(config))
    # Both roles make what attention reads, so half of every gain counts.
    assert found.value == pytest.approx(0.5 * 35e-3)
    assert found.sizes.sum() == 35
    for role in roles:
        sizes = [int(size) for site, size in zip(prices.sites, found.sizes, strict=True) if site.role == role]
        assert max(sizes) - min(sizes) <= 1


def test_a_model_that_is_over_a_budget_by_itself_is_refused() -> None:
    made = small()
    config = OptimizationConfig(max_flops=10.0)
    costs, prices = priced(made, config)
    values = site_values(ValueModel.WHITENED, prices.sites, made.profile, made.arrays, config, costs)
    with pytest.raises(InfeasibleBudgetError, match="at every depth"):
        optimise(prices, values, limits_of(config))
