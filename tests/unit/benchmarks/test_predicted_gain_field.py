"""Random and shuffled plans keep to the budget and leave no rank unspent."""

from __future__ import annotations

import pytest
from predicted_gain_field import random_ranks, shuffled_ranks

PRICES = {f"layer{number}": price for number, price in enumerate((10, 10, 25, 25, 40, 7))}


@pytest.mark.parametrize("seed", range(5))
def test_a_random_plan_is_full_and_within_the_budget(seed: int) -> None:
    ranks = random_ranks(PRICES, 200, seed=seed)
    left = 200 - sum(PRICES[name] * rank for name, rank in ranks.items())
    assert 0 <= left < min(PRICES.values())
    assert all(rank > 0 for rank in ranks.values())


def test_random_plans_differ_by_seed_and_not_by_chance() -> None:
    plans = [random_ranks(PRICES, 200, seed=seed) for seed in (0, 1, 0)]
    assert plans[0] == plans[2] != plans[1]


@pytest.mark.parametrize("seed", range(8))
def test_a_shuffled_plan_fits_the_budget_and_adapts_no_more_layers(seed: int) -> None:
    ranks = {"layer0": 6, "layer5": 9, "layer1": 2}
    budget = sum(PRICES[name] * rank for name, rank in ranks.items())
    shuffled = shuffled_ranks(ranks, PRICES, budget, seed=seed)
    spent = sum(PRICES[name] * rank for name, rank in shuffled.items())
    assert spent <= budget
    assert len(shuffled) <= len(ranks)
    # Filled up: not one rank more fits on a layer that is adapted.
    assert all(spent + PRICES[name] > budget for name in shuffled)


def test_shuffling_moves_ranks_to_other_layers() -> None:
    ranks = {"layer0": 6, "layer5": 9, "layer1": 2}
    assert any(set(shuffled_ranks(ranks, PRICES, 200, seed=seed)) != set(ranks) for seed in range(5))
