"""Plans that differ in their ranks alone, at the parameters of the plan they are compared with."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from layerlens.adapting.arms.ranks import (
    customary_ranks,
    even_ranks,
    gradient_ranks,
    linear_layers,
    mlp_ranks,
    optimum_plan,
    random_ranks,
    shuffled_plan,
    uniform_plan,
    with_ranks,
)
from layerlens.artifacts.options import trainable_params
from layerlens.artifacts.plan import OPTIMUM, Plan
from layerlens.errors import ConfigError
from layerlens.words import Method, Role, Site, TaskKind
from tests.unit.adapting.plans import EVERY_FAMILY, kind_of, make_plan, tiny_task_model, uneven_ranks


def made(family: str, folder: Path) -> Plan:
    task_model = tiny_task_model(family, folder, kind_of(family))
    return make_plan(task_model, kind_of(family), uneven_ranks(task_model))


def with_norms(plan: Plan, norms: dict[str, float]) -> Plan:
    return plan.model_copy(update={"metadata": plan.metadata.model_copy(update={"gradient_norms": norms})})


def with_adapter(plan: Plan) -> Plan:
    """The same plan with a bottleneck adapter at one of two sites, whose parameters no LoRA can match to the unit."""
    downs = [entry for entry in plan.layers if entry.role == Role.MLP_DOWN]
    params = trainable_params(Method.ADAPTER, 3, in_features=downs[0].in_features, out_features=downs[0].out_features)
    taken = {"site": Site.SUBLAYER, "method": Method.ADAPTER, "size": 3, "params": params}
    free = {"site": Site.SUBLAYER, "method": Method.NONE, "size": 0, "params": 0}
    sites = [downs[0].model_copy(update=taken), downs[1].model_copy(update=free)]
    return plan.model_copy(update={"layers": [*plan.layers, *sites]})


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_every_allocation_has_the_parameters_of_the_plan(family: str, tmp_path: Path) -> None:
    plan = made(family, tmp_path)
    plan = with_norms(plan, {entry.layer: 1.0 + number for number, entry in enumerate(plan.layers)})
    allocations = {
        "uniform": uniform_plan(plan, {}),
        "random": with_ranks(plan, random_ranks(plan, seed=0)),
        "shuffled": shuffled_plan(plan, seed=0),
        "gradient": with_ranks(plan, gradient_ranks(plan)),
    }
    for name, found in allocations.items():
        assert found.params == plan.params, name
        assert found.ranks != plan.ranks, name
    assert len({tuple(sorted(found.ranks.items())) for found in allocations.values()}) == len(allocations)
    ranks = [allocations["uniform"].ranks.get(entry.layer, 0) for entry in plan.layers]
    assert max(ranks) - min(ranks) <= 2


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_mlp_alone_comes_as_close_as_its_widths_allow(family: str, tmp_path: Path) -> None:
    plan = made(family, tmp_path)
    found = with_ranks(plan, mlp_ranks(plan))
    members = [entry for entry in plan.layers if Role(entry.role).is_mlp]
    assert found.ranks.keys() == {entry.layer for entry in members}
    assert max(found.ranks.values()) - min(found.ranks.values()) <= 1
    assert 0 <= plan.params - found.params < min(entry.in_features + entry.out_features for entry in members)


def test_a_plan_that_no_lora_can_match_is_matched_from_below(tmp_path: Path) -> None:
    plan = with_adapter(made("bert", tmp_path))
    for found in (uniform_plan(plan, {}), with_ranks(plan, random_ranks(plan, seed=3))):
        assert 0 < plan.params - found.params < 32
        assert {entry.method for entry in found.adapted} == {Method.LORA}


def test_random_ranks_follow_the_seed(tmp_path: Path) -> None:
    plan = made("bert", tmp_path)
    assert random_ranks(plan, seed=1) == random_ranks(plan, seed=1)
    assert random_ranks(plan, seed=1) != random_ranks(plan, seed=2)


def test_shuffling_keeps_every_size_within_its_price_and_moves_some(tmp_path: Path) -> None:
    plan = with_adapter(made("bert", tmp_path))
    found = shuffled_plan(plan, seed=0)
    assert found.params == plan.params

    def sizes(one: Plan) -> Counter[tuple[object, ...]]:
        return Counter((entry.site, entry.in_features + entry.out_features, entry.method, entry.size) for entry in one.layers)

    assert sizes(found) == sizes(plan)
    assert [entry.size for entry in found.layers] != [entry.size for entry in plan.layers]
    assert shuffled_plan(plan, seed=0) == found
    adapters = {
        entry.layer for seed in range(10) for entry in shuffled_plan(plan, seed=seed).adapted if entry.method is Method.ADAPTER
    }
    assert len(adapters) == 2, "the adapter is dealt out among the sites that could have one"


def test_a_plan_with_one_size_for_each_price_is_shuffled_over_all_layers(tmp_path: Path) -> None:
    plan = made("bert", tmp_path)
    plan = with_ranks(plan, dict.fromkeys(mlp_ranks(plan), 3))
    found = shuffled_plan(plan, seed=0)
    assert found.params == plan.params
    assert found.ranks.keys() != plan.ranks.keys()


def test_ranks_rise_with_the_gradient(tmp_path: Path) -> None:
    plan = made("bert", tmp_path)
    square = [entry.layer for entry in plan.layers if entry.in_features == entry.out_features]
    ranks = gradient_ranks(with_norms(plan, {layer: 4.0**number for number, layer in enumerate(square[:4])}))
    # 1 : 4 : 16 : 64 of 21 ranks of 64 parameters are 0, 1, 4 and 16.
    assert plan.params == 21 * 64
    assert ranks == {square[1]: 1, square[2]: 4, square[3]: 16}


def test_uniform_is_the_planners_own_where_it_has_as_many_parameters(tmp_path: Path) -> None:
    plan = made("bert", tmp_path)
    own = shuffled_plan(plan, seed=5)
    assert uniform_plan(plan, {"uniform": own}) is own
    smaller = with_ranks(plan, {plan.layers[0].layer: 1})
    assert uniform_plan(plan, {"uniform": smaller}).params == plan.params


def test_uniform_is_over_all_layers_where_a_time_budget_stops_the_planners_own(tmp_path: Path) -> None:
    plan = made("bert", tmp_path)
    stopped = shuffled_plan(plan, seed=5).model_copy(update={"reach": 1})
    whole = with_ranks(plan, even_ranks(plan, linear_layers(plan)))
    assert uniform_plan(stopped, {"uniform": stopped}).ranks == whole.ranks != stopped.ranks


def test_the_optimum_is_found_among_the_candidates_or_is_the_plan(tmp_path: Path) -> None:
    plan = made("bert", tmp_path)
    other = with_ranks(plan, {plan.layers[0].layer: 2})
    assert optimum_plan(plan, {OPTIMUM: other}) is other
    chosen = plan.model_copy(update={"chosen": plan.chosen.model_copy(update={"name": OPTIMUM})})
    assert optimum_plan(chosen, {}) is chosen
    gained = plan.model_copy(update={"solver": plan.solver.model_copy(update={"value": 0.5})})
    with pytest.raises(ConfigError, match="no candidate optimum-whitened"):
        optimum_plan(gained, {"uniform": other})


def test_where_nothing_gains_what_was_planned_is_uniform(tmp_path: Path) -> None:
    raced = made("bert", tmp_path)
    assert (raced.solver.value, raced.chosen.name) == (0.0, "made")
    uniform = with_ranks(raced, {raced.layers[0].layer: 2})
    assert optimum_plan(raced, {"mlp": raced, "uniform": uniform}) is uniform


def test_peft_customary_layers_are_query_and_value_or_the_fused_one(tmp_path: Path) -> None:
    llama = tiny_task_model("llama", tmp_path / "llama", TaskKind.CAUSAL_LM)
    names = customary_ranks(make_plan(llama, TaskKind.CAUSAL_LM, 1), 8)
    assert {name.rpartition(".")[2] for name in names} == {"q_proj", "v_proj"}
    gpt2 = tiny_task_model("gpt2", tmp_path / "gpt2", TaskKind.CAUSAL_LM)
    names = customary_ranks(make_plan(gpt2, TaskKind.CAUSAL_LM, 1), 8)
    assert {name.rpartition(".")[2] for name in names} == {"c_attn"}
    assert set(names.values()) == {8}


def test_ranks_by_hand_give_a_plan_of_the_same_model(tmp_path: Path) -> None:
    plan = made("bert", tmp_path)
    one = plan.layers[4]
    found = with_ranks(plan, {one.layer: 5})
    assert found.ranks == {one.layer: 5}
    assert found.params == 5 * (one.in_features + one.out_features)
    assert with_ranks(plan, {}).adapted == []


def test_what_cannot_be_apportioned_is_told(tmp_path: Path) -> None:
    plan = made("bert", tmp_path)
    with pytest.raises(ConfigError, match="no gradient norm above zero"):
        gradient_ranks(with_norms(plan, dict.fromkeys(plan.ranks, 0.0)))
    with pytest.raises(ConfigError, match="the plan adapts no layer"):
        random_ranks(with_ranks(plan, {}), seed=0)
    anonymous = plan.model_copy(update={"layers": [layer.model_copy(update={"role": "other"}) for layer in plan.layers]})
    with pytest.raises(ConfigError, match="known as part of an MLP"):
        mlp_ranks(anonymous)
    with pytest.raises(ConfigError, match="no layer of this model is known as query or value"):
        customary_ranks(anonymous, 8)
    small = plan.model_copy(
        update={"layers": [plan.layers[0].model_copy(update={"method": Method.LORA, "size": 1, "params": 5})]}
    )
    with pytest.raises(ConfigError, match="takes 64 parameters, the plan has 5"):
        uniform_plan(small, {})
