from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from layerlens.artifacts.plan import Plan, inconsistencies
from layerlens.budget.run import make_plan
from layerlens.config import OptimizationConfig
from layerlens.errors import ConfigError, InfeasibleBudgetError
from layerlens.words import BudgetName, Method, Site
from tests.unit.budget.small_models import SMALL, small


def planned(**options: object) -> tuple[Plan, dict[str, Plan]]:
    made = small()
    config = OptimizationConfig.model_validate({"length": 16, **options})
    return make_plan(made.profile, made.arrays, made.timing, config, profile_path="p", command="c")


def test_the_same_input_gives_the_same_bytes() -> None:
    one, others = planned(max_trainable_params=2000, max_time_ratio=0.8)
    again, same = planned(max_trainable_params=2000, max_time_ratio=0.8)
    assert one.model_dump_json() == again.model_dump_json()
    assert [(name, plan.model_dump_json()) for name, plan in others.items()] == [
        (name, plan.model_dump_json()) for name, plan in same.items()
    ]


def test_every_candidate_adds_up_keeps_every_budget_and_never_beats_the_bound() -> None:
    plan, candidates = planned(max_trainable_params=2000, max_vram_gb=0.01, candidate_methods=[*Method])
    assert {"uniform", plan.chosen.name} <= set(candidates)
    assert 3 < len(candidates) <= 24
    for name, each in candidates.items():
        assert name == each.chosen.name
        assert re.fullmatch(r"[A-Za-z0-9.+@_-]+", name)
        assert inconsistencies(each) == []
        for budget in each.budgets.values():
            assert budget.limit is None or budget.spent <= budget.limit
        assert each.chosen.value <= plan.solver.bound * (1 + 1e-12)
        assert each.solver == plan.solver
    assert plan.solver.uniform_value == pytest.approx(candidates["uniform"].chosen.value)


def test_a_plan_with_a_method_that_was_left_out_does_not_add_up() -> None:
    plan, _ = planned(max_trainable_params=2000)
    optimization = {**plan.metadata.optimization, "candidate_methods": ["adapter", "none"]}
    edited = plan.model_copy(update={"metadata": plan.metadata.model_copy(update={"optimization": optimization})})
    assert inconsistencies(edited) == [f"{len(plan.adapted)} sites get lora, which candidate_methods leaves out"]


def test_value_never_falls_with_a_larger_budget() -> None:
    budgets: dict[str, list[float]] = {"max_trainable_params": [200, 1000, 4000], "max_time_ratio": [0.47, 0.95]}
    for name, limits in budgets.items():
        values = [planned(**{name: limit})[0].solver.value for limit in limits]
        assert all(low <= high for low, high in pairwise(values))
        assert values[-1] > values[0]
    points = planned(max_trainable_params=1000)[0].pareto
    assert len(points) >= 6
    assert all(low.limit < high.limit and low.value <= high.value for low, high in pairwise(points))
    assert all(point.uniform_value is None or point.uniform_value <= point.value * (1 + 1e-9) for point in points)


def test_a_share_of_full_fine_tuning_s_time_reaches_deeper_where_frozen_blocks_run_once() -> None:
    plans = {epochs: planned(max_time_ratio=0.55, max_trainable_params=4000, epochs=epochs)[0] for epochs in (1.0, 3.0)}
    for plan in plans.values():
        assert plan.adapted
        assert plan.budgets[BudgetName.TIME_RATIO].spent <= 0.55
    # By hand: with the second block adapted a step costs (.3 + 4 + 1) / 9.3 = .57 of a full one, and .498 where the first
    # block's forward pass is shared by three epochs.
    assert {epochs: plan.depth_cut for epochs, plan in plans.items()} == {1.0: 2, 3.0: 1}
    assert plans[3.0].solver.value > plans[1.0].solver.value


def test_no_plan_spends_more_than_the_utilisation_allows() -> None:
    for each in planned(max_trainable_params=2000, max_utilisation=0.8)[1].values():
        budget = each.budgets[BudgetName.TRAINABLE_PARAMS]
        assert budget.limit == 2000
        assert 0 < budget.spent <= 1600


def test_weighted_costs_reduce_what_is_spent() -> None:
    free, _ = planned(max_trainable_params=4000)
    frugal, _ = planned(max_trainable_params=4000, objective_weights={"utility": 0.5, "cost": 0.5})
    assert 0 < frugal.params < free.params


@pytest.mark.parametrize(("favoured", "other"), [(Method.LORA, Method.ADAPTER), (Method.ADAPTER, Method.LORA)])
def test_a_low_penalty_favours_its_method(favoured: Method, other: Method) -> None:
    methods = [Method.LORA, Method.ADAPTER, Method.NONE]
    plan, _ = planned(max_trainable_params=2000, candidate_methods=methods, method_penalties={favoured: 0.05})
    params = {method: sum(layer.params for layer in plan.adapted if layer.method is method) for method in methods}
    assert params[favoured] > params[other]


def test_prefixes_sit_on_the_attention_of_a_block_alone() -> None:
    plan, _ = planned(max_trainable_params=2000, candidate_methods=[*Method], method_penalties={Method.PREFIX: 0.01})
    prefixes = [layer for layer in plan.layers if layer.method is Method.PREFIX]
    assert prefixes
    assert all(layer.site is Site.ATTENTION and layer.layer.endswith(".attention.self") for layer in prefixes)
    assert inconsistencies(plan) == []


@pytest.mark.parametrize(
    "budget",
    [
        {"max_time_ratio": 0.8},
        {"latency_target_ms": 1.0},
        {"max_trainable_params": 2000, "objective_weights": {"utility": 1.0, "latency": 0.1}},
    ],
)
def test_a_budget_or_weight_of_time_without_measured_times_is_refused(budget: dict[str, Any]) -> None:
    made = small()
    with pytest.raises(ConfigError, match=r"no timing\.json"):
        make_plan(made.profile, made.arrays, None, OptimizationConfig(**budget), profile_path="p", command="c")


def test_without_measured_times_other_budgets_still_work() -> None:
    made = small()
    config = OptimizationConfig(max_trainable_params=2000)
    plan, _ = make_plan(made.profile, made.arrays, None, config, profile_path="p", command="c")
    assert set(plan.budgets) == {BudgetName.TRAINABLE_PARAMS, BudgetName.FLOPS, BudgetName.VRAM_BYTES}


def test_a_time_budget_lifts_the_lowest_adapted_block() -> None:
    deep, _ = planned(max_trainable_params=4000)
    cut, _ = planned(max_trainable_params=4000, max_time_ratio=0.5)
    assert deep.depth_cut == 0
    assert cut.depth_cut == min(layer.block for layer in cut.adapted if layer.block is not None) == 2


def test_a_plan_without_lora_has_no_uniform_candidate() -> None:
    plan, candidates = planned(max_trainable_params=2000, candidate_methods=[Method.ADAPTER, Method.NONE])
    assert plan.solver.uniform_value is None
    assert "uniform" not in candidates
    assert {layer.method for layer in plan.adapted} == {Method.ADAPTER}


def test_a_budget_below_every_option_is_refused_with_the_smallest_that_is_not() -> None:
    with pytest.raises(InfeasibleBudgetError, match=r"the smallest feasible is 60$"):
        planned(max_trainable_params=59)


def test_ranks_wider_than_a_layer_are_planned_within_it() -> None:
    plan, candidates = planned(max_trainable_params=10**6, max_rank=35)
    for each in (plan, *candidates.values()):
        assert all(layer.size <= min(layer.in_features, layer.out_features) for layer in each.layers)
    assert set(candidates["uniform"].ranks.values()) == {20, 35}
    assert any("gain curves end at rank 4" in note for note in plan.metadata.notes)


@pytest.mark.parametrize(
    "limit",
    [{"max_time_ratio": 0.5}, {"max_time_ratio": 0.55, "epochs": 3.0}, {"max_vram_gb": 0.0022}, {"max_flops": 0.9 * 252120}],
)
def test_where_time_or_memory_forbids_the_lowest_blocks_uniform_is_over_all_the_others(limit: dict[str, float]) -> None:
    plan, candidates = planned(max_trainable_params=3000, **limit)
    whole = planned(max_trainable_params=3000)[1]["uniform"]
    uniform = candidates["uniform"]
    assert 0 == whole.depth_cut < uniform.depth_cut
    assert uniform.is_cut_short
    assert not whole.is_cut_short
    above = {layer.layer for layer in whole.adapted if (layer.block or 0) >= uniform.depth_cut}
    assert set(uniform.ranks) == above
    assert plan.solver.uniform_value == pytest.approx(uniform.chosen.value)
    # No structured plan is left that a budget of depth has shrunk to a few of its layers.
    for name, each in candidates.items():
        if not name.startswith("optimum"):
            assert len({layer.size for layer in each.adapted}) <= 2
            roles = {layer.role for layer in each.adapted}
            members = {layer.layer for layer in whole.adapted if layer.role in roles and (layer.block or 0) >= each.depth_cut}
            assert set(each.ranks) == members


def deep(**options: object) -> tuple[Plan, dict[str, Plan]]:
    made = small(shape=replace(SMALL, blocks=12))
    config = OptimizationConfig.model_validate({"length": 16, **options})
    return make_plan(made.profile, made.arrays, made.timing, config, profile_path="p", command="c")


@pytest.mark.parametrize("params", [3000, 12000])
def test_more_time_never_leaves_uniform_with_much_less(params: int) -> None:
    """A block more may cost the others a rank, never most of what they had; the optimum keeps its name meanwhile."""
    spent, reached = [], []
    for ratio in np.arange(0.30, 0.90, 0.02).tolist():
        _, candidates = deep(max_trainable_params=params, max_time_ratio=ratio)
        uniform = candidates["uniform"]
        assert "optimum-whitened" in candidates
        assert uniform.budgets[BudgetName.TIME_RATIO].spent <= ratio
        # Nothing that is deeper by name is shallower in truth, and no set of roles starts below where it can be whole.
        deepest = {name: plan.depth_cut for name, plan in candidates.items() if not name.startswith("optimum")}
        assert all(int(name.partition("@")[2] or 0) == cut for name, cut in deepest.items() if name != "uniform")
        assert len({name.partition("@")[0] for name in deepest if "@" in name}) >= 3
        spent.append(uniform.params)
        reached.append(uniform.reach)
    assert all(later >= 0.6 * before for before, later in pairwise(spent))
    assert all(later <= before for before, later in pairwise(reached))
    assert reached[0] > reached[-1]


def test_under_objective_weights_values_add_up_less_what_layers_share_and_no_candidate_beats_the_bound() -> None:
    plan, candidates = planned(max_trainable_params=3000, objective_weights={"utility": 0.8, "flops": 0.1, "vram": 0.1})
    assert plan.is_weighted
    for made in (plan, *candidates.values()):
        assert made.shared_cost > 0
        assert inconsistencies(made) == []
        assert made.chosen.value <= plan.solver.bound
    assert plan.chosen.value == plan.solver.value
    edited = plan.model_copy(update={"shared_cost": 0.0})
    assert ["layers add up" in fault for fault in inconsistencies(edited)] == [True]
    neutral, _ = planned(max_trainable_params=3000, method_penalties={"lora": 1.0})
    penalised, _ = planned(max_trainable_params=3000, method_penalties={"lora": 0.8})
    assert (neutral.shared_cost, neutral.is_weighted, penalised.is_weighted) == (0.0, False, True)


def test_few_parameters_alone_do_not_count_as_a_plan_cut_short() -> None:
    _, candidates = planned(max_trainable_params=200, max_vram_gb=100)
    assert candidates["uniform"].depth_cut > 0
    assert not any(plan.is_cut_short for plan in candidates.values())


@pytest.mark.parametrize("ratio", [0.4, 0.5, 0.6, 0.7])
def test_every_part_of_a_mix_gets_its_sites_where_time_is_short(ratio: float) -> None:
    _, candidates = deep(max_trainable_params=20000, max_time_ratio=ratio, candidate_methods=[*Method], max_candidates=200)
    mixes = {name: plan for name, plan in candidates.items() if name.startswith(("prefix+", "attention+adapter"))}
    assert mixes
    for name, plan in mixes.items():
        methods = {layer.method for layer in plan.adapted}
        assert len(methods) == 2, name
        blocks = {method: {layer.block for layer in plan.adapted if layer.method is method} for method in methods}
        assert all(found == set(range(plan.depth_cut, 12)) for found in blocks.values()), name


def test_where_not_even_the_highest_block_fits_whole_uniform_takes_what_fits_of_it() -> None:
    _, candidates = planned(max_trainable_params=3000, max_vram_gb=0.0016)
    assert {layer.block for layer in candidates["uniform"].adapted} == {2}
    assert 0 < len(candidates["uniform"].ranks) < 6
    # Blocks without planned layers are none to start at.
    made = small()
    lower = [layer for layer in made.profile.layers if (layer.block or 0) < 2]
    profile = made.profile.model_copy(update={"layers": lower})
    config = OptimizationConfig(length=16, max_trainable_params=3000, max_vram_gb=0.0026)
    _, candidates = make_plan(profile, made.arrays, made.timing, config, profile_path="p", command="c")
    assert {layer.block for layer in candidates["uniform"].adapted} == {1}
