from __future__ import annotations

import numpy as np

from layerlens.budget.costs import limits_of
from layerlens.budget.explain import explain
from layerlens.budget.prices import PriceList
from layerlens.budget.shared_costs import SharedCosts
from layerlens.budget.values import ValueModel, site_values
from layerlens.config import OptimizationConfig
from layerlens.words import BudgetName
from tests.unit.budget.small_models import by_hand, priced, small


def made(**options: object) -> tuple[PriceList, list[np.ndarray], dict[BudgetName, float], OptimizationConfig]:
    profile = small()
    config = OptimizationConfig.model_validate({"length": 16, **options})
    costs, prices = priced(profile, config)
    values = site_values(ValueModel.WHITENED, prices.sites, profile.profile, profile.arrays, config, costs)
    return prices, values, limits_of(config), config


def test_each_reason_says_gain_next_option_its_price_and_what_stopped_it() -> None:
    prices, values, limits, _ = made(max_trainable_params=200)
    sizes = np.zeros(len(prices.sites), dtype=np.int64)
    sizes[0] = 2
    said = explain(prices, sizes, values, limits).reasons
    step = values[0][3] - values[0][2]
    assert said[0] == (
        f"predicted to gain {values[0][2]:.3g}; lora 3 would gain {step:.3g} more for 80 parameters: only 40 parameters left"
    )
    assert said[1] == f"none; lora 1 would gain {values[1][1]:.3g} more for 60 parameters: only 40 parameters left"
    sizes[0] = 4
    assert explain(prices, sizes, values, limits).reasons[0].endswith("4 is the largest size allowed")


def test_what_fits_and_gains_was_left_out_by_another_rule_than_these_gains() -> None:
    prices, values, limits, _ = made(max_trainable_params=10**6)
    sizes = np.zeros(len(prices.sites), dtype=np.int64)
    said = explain(prices, sizes, values, limits).reasons
    assert all(reason.endswith("it would fit, but this plan was not made by these gains") for reason in said)
    assert explain(prices, sizes, values, limits).stopped_by == []


def test_only_budgets_that_a_step_with_a_gain_is_too_dear_for_have_stopped_a_plan() -> None:
    prices, values, limits, _ = made(max_trainable_params=50, max_vram_gb=1.0)
    sizes = np.zeros(len(prices.sites), dtype=np.int64)
    assert explain(prices, sizes, values, limits).stopped_by == [BudgetName.TRAINABLE_PARAMS]
    assert explain(prices, sizes, [np.zeros_like(entry) for entry in values], limits).stopped_by == []


def test_a_lower_block_is_priced_with_the_backward_pass_it_needs() -> None:
    prices, values, limits, config = made(max_flops=1e9)
    costs, _ = priced(small(), config)
    sizes = np.zeros(len(prices.sites), dtype=np.int64)
    last = max(number for number, site in enumerate(prices.sites) if site.block == 2)
    sizes[last] = 1
    lower = sizes.copy()
    lower[0] = 1
    extra = by_hand(costs, prices, lower)[BudgetName.FLOPS] - by_hand(costs, prices, sizes)[BudgetName.FLOPS]
    assert (
        f"{extra:,.6g} FLOPs per token and a backward pass down to block 0" in explain(prices, sizes, values, limits).reasons[0]
    )


def test_a_shared_input_is_priced_once() -> None:
    prices, values, limits, config = made(max_vram_gb=1.0)
    costs, _ = priced(small(), config)
    sizes = np.zeros(len(prices.sites), dtype=np.int64)
    sizes[0] = 1
    for number in (1, 3):
        more = sizes.copy()
        more[number] = 1
        extra = by_hand(costs, prices, more)[BudgetName.VRAM_BYTES] - by_hand(costs, prices, sizes)[BudgetName.VRAM_BYTES]
        assert f"{extra:,.6g} bytes of training memory" in explain(prices, sizes, values, limits).reasons[number]


def test_a_layer_without_a_gain_says_so_and_a_weighed_one_says_that_it_costs_too_much() -> None:
    prices, values, limits, _ = made(max_trainable_params=200)
    sizes = np.zeros(len(prices.sites), dtype=np.int64)
    flat = [np.zeros_like(entry) for entry in values]
    assert set(explain(prices, sizes, flat, limits).reasons) == {"none: no gain beyond noise was found"}
    assert set(explain(prices, sizes, flat, limits, shared=SharedCosts.of(prices)).reasons) == {
        "none: it costs more than it gains"
    }


def test_the_shared_costs_of_a_first_option_are_taken_off_its_gain() -> None:
    prices, values, limits, _ = made(max_trainable_params=2000)
    sizes = np.zeros(len(prices.sites), dtype=np.int64)
    sizes[[number for number, site in enumerate(prices.sites) if site.block == 1]] = 1
    depth = float(values[0].max())
    shared = SharedCosts(np.array([depth, 0.0, 0.0, 0.0]), np.zeros(len(prices.sites)))
    lower, *_, upper = explain(prices, sizes, values, limits, shared=shared).reasons
    assert lower == "none: it costs more than it gains"
    assert upper.startswith(f"none; lora 1 would gain {values[-1][1]:.3g} more")
