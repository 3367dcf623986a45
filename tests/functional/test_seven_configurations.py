"""The seven configurations: the budget goes where the sensitivity is, and nothing collapses."""

from __future__ import annotations

import pytest
from scipy.stats import spearmanr

from examples.seven_configurations import CONFIGURATIONS, MAX_TRAINABLE_PARAMS, at_random, mean_rank, planned, synthetic
from examples.synthetic_profile import MINILM
from layerlens.artifacts.plan import Plan, inconsistencies
from layerlens.words import BudgetName, Method, Role

BY_NAME = {configuration.name: configuration for configuration in CONFIGURATIONS}
NARROW = [role for role in MINILM.layers if not role.is_mlp]


@pytest.fixture(scope="module")
def plans() -> dict[str, tuple[Plan, dict[str, Plan]]]:
    return {name: planned(configuration) for name, configuration in BY_NAME.items()}


def spent(plan: Plan) -> float:
    return plan.budgets[BudgetName.TRAINABLE_PARAMS].spent


def test_there_are_seven() -> None:
    assert len(BY_NAME) == 7


@pytest.mark.parametrize("name", BY_NAME)
def test_utilities_never_collapse_to_zero(name: str) -> None:
    utilities = [layer.utility for layer in synthetic(BY_NAME[name]).profile.layers]
    assert min(utilities) > 0.05
    assert max(utilities) == pytest.approx(1.0)


@pytest.mark.parametrize("name", BY_NAME)
def test_every_plan_is_proved_adds_up_and_spends_within_its_budget(
    plans: dict[str, tuple[Plan, dict[str, Plan]]], name: str
) -> None:
    plan, candidates = plans[name]
    assert plan.solver.gap <= 1e-6
    assert plan.solver.value <= plan.solver.bound
    assert plan.adapted
    for each in [plan, *candidates.values()]:
        assert inconsistencies(each) == []
        assert 0 < spent(each) <= BY_NAME[name].options["max_trainable_params"]
        assert each.chosen.value <= plan.solver.bound * (1 + 1e-9)
    assert plan.solver.uniform_value is not None
    assert plan.chosen.value >= plan.solver.uniform_value


def test_under_uniform_sensitivity_ranks_differ_by_at_most_one_within_a_role(
    plans: dict[str, tuple[Plan, dict[str, Plan]]],
) -> None:
    for name in ("default", "four-fold budget", "LoRA cheap"):
        plan, _ = plans[name]
        for role in MINILM.layers:
            ranks = [layer.size for layer in plan.layers if layer.role == role and layer.site == "linear"]
            assert len(ranks) == MINILM.blocks
            assert max(ranks) - min(ranks) <= 1, (name, role, ranks)


def test_a_fourfold_budget_spends_more_and_never_loses_value(plans: dict[str, tuple[Plan, dict[str, Plan]]]) -> None:
    small, large = plans["default"][0], plans["four-fold budget"][0]
    assert spent(large) > 3 * spent(small)
    assert large.chosen.value > small.chosen.value
    assert all(large.ranks.get(layer, 0) >= rank for layer, rank in small.ranks.items())


@pytest.mark.parametrize("role", NARROW)
def test_early_and_late_sensitivity_move_ranks_to_their_half(plans: dict[str, tuple[Plan, dict[str, Plan]]], role: Role) -> None:
    early, late = plans["early layers sensitive"][0], plans["late layers sensitive"][0]
    assert mean_rank(early, role, is_early=True) > mean_rank(early, role, is_early=False) + 2
    assert mean_rank(late, role, is_early=False) > mean_rank(late, role, is_early=True) + 2


@pytest.mark.parametrize("role", NARROW)
def test_random_sensitivity_draws_ranks_after_it(plans: dict[str, tuple[Plan, dict[str, Plan]]], role: Role) -> None:
    plan, _ = plans["random sensitivity"]
    layers = [layer for layer in plan.layers if layer.role == role]
    wanted = [at_random(layer.block, role) for layer in layers if layer.block is not None]
    assert spearmanr([layer.size for layer in layers], wanted).statistic > 0.85


def test_cheap_lora_is_favoured_and_the_plan_is_sensible(plans: dict[str, tuple[Plan, dict[str, Plan]]]) -> None:
    plan, _ = plans["LoRA cheap"]
    assert {layer.method for layer in plan.adapted} == {Method.LORA}
    assert spent(plan) >= 0.7 * MAX_TRAINABLE_PARAMS
    assert plan.chosen.value == pytest.approx(plans["default"][0].chosen.value / 0.8)


def test_a_utility_focused_plan_is_neither_empty_nor_blind_to_cost(plans: dict[str, tuple[Plan, dict[str, Plan]]]) -> None:
    plan, _ = plans["utility-focused"]
    free = plans["late layers sensitive"][0]
    assert 0.3 * MAX_TRAINABLE_PARAMS < spent(plan) < spent(free)
    assert all(mean_rank(plan, role, is_early=False) > mean_rank(plan, role, is_early=True) for role in NARROW)
    assert len(plan.adapted) >= len(MINILM.layers)
