"""Who is believed, who is simple, and who races first when not all can."""

from __future__ import annotations

import pytest

from layerlens.adapting.prior import believed_best, field_order, is_structured, simplest, why_believed
from layerlens.artifacts.plan import Plan
from layerlens.models.load import TaskModel
from layerlens.models.roles import describe_layers
from layerlens.words import Method, Role, TaskKind
from tests.unit.adapting.mixed_plans import mixed_plan
from tests.unit.adapting.plans import make_plan, tiny_task_model


@pytest.fixture(scope="module")
def task_model(tmp_path_factory: pytest.TempPathFactory) -> TaskModel:
    return tiny_task_model("bert", tmp_path_factory.mktemp("bert"), TaskKind.CLASSIFICATION)


@pytest.fixture(scope="module")
def candidates(task_model: TaskModel) -> dict[str, Plan]:
    layers = describe_layers(task_model.model).layers
    names = [spec.layer for spec in layers]
    mlp = [spec.layer for spec in layers if spec.role.is_mlp]
    mlp_and_output = [spec.layer for spec in layers if spec.role.is_mlp or spec.role is Role.ATTENTION_OUTPUT]
    upper = [spec.layer for spec in layers if spec.block == 1]
    attention = [spec.layer for spec in layers if spec.role.is_attention]
    ranks: dict[str, dict[str, int]] = {
        "uniform": dict.fromkeys(names, 2),
        "rank-1": dict.fromkeys(names, 1),
        "optimum-a": {names[0]: 7, names[5]: 1},
        "optimum-b": {names[2]: 9, names[3]: 4},
        "mlp": dict.fromkeys(mlp, 4),
        "mlp-output": {**dict.fromkeys(mlp_and_output, 3), mlp[0]: 4},
        "upper": dict.fromkeys(upper, 4),
        "attention": dict.fromkeys(attention, 2),
    }
    return {name: make_plan(task_model, TaskKind.CLASSIFICATION, found, name=name) for name, found in ranks.items()}


def test_uniform_races_first_then_one_of_each_kind_in_turn(candidates: dict[str, Plan]) -> None:
    order = field_order(candidates)
    assert order[:5] == ["uniform", "rank-1", "mlp-output", "optimum-a", "attention"]
    assert sorted(order) == sorted(candidates)


def test_the_optimum_of_the_default_values_is_the_first_to_challenge_uniform(candidates: dict[str, Plan]) -> None:
    named = {"optimum-utility" if name == "optimum-a" else name: plan for name, plan in candidates.items()}
    named["optimum-whitened"] = named.pop("optimum-b")
    order = field_order(named)
    assert order[:3] == ["uniform", "optimum-whitened", "rank-1"]
    assert order.index("optimum-utility") > order.index("mlp-output")


def test_the_order_does_not_depend_on_the_order_of_the_candidates(candidates: dict[str, Plan]) -> None:
    backwards = dict(reversed(candidates.items()))
    assert field_order(backwards) == field_order(candidates)


def test_the_prior_believes_in_rank_one_everywhere_then_breadth_then_mlp(candidates: dict[str, Plan]) -> None:
    remaining = dict(candidates)
    believed = []
    while remaining:
        believed.append(believed_best(remaining))
        del remaining[believed[-1]]
    assert believed[:4] == ["rank-1", "uniform", "mlp-output", "mlp"]


def valued(plan: Plan, value: float, *, reach: int = 0) -> Plan:
    return plan.model_copy(update={"chosen": plan.chosen.model_copy(update={"value": value}), "reach": reach})


def test_where_none_covers_every_layer_the_prior_goes_by_predicted_value(candidates: dict[str, Plan]) -> None:
    # Attention is the broadest of these, and none that was made by a solver is believed first.
    values = {"attention": 1.0, "mlp": 2.0, "mlp-output": 1.9, "upper": 0.5, "optimum-a": 9.0}
    narrow = {name: valued(candidates[name], value) for name, value in values.items()}
    assert believed_best(narrow) == "mlp"
    assert why_believed("mlp", narrow["mlp"]) == "no plan is broad, so by predicted value"
    order = field_order({**narrow, "optimum-whitened": valued(candidates["optimum-b"], 10.0)})
    assert order.index("mlp") < order.index("mlp-output")
    assert order.index("mlp") < order.index("attention") < order.index("upper")
    # What leaves out blocks that the budgets reach comes after what does not.
    cut = {**narrow, "mlp": narrow["mlp"].model_copy(update={"depth_cut": 1})}
    assert believed_best(cut) == "mlp-output"
    # Values that say nothing leave it to uniform, and without one to breadth.
    silent = {name: valued(candidates[name], 0.0) for name in ("attention", "mlp", "upper", "optimum-a")}
    assert believed_best(silent) == "mlp"
    assert believed_best({**silent, "uniform": valued(candidates["optimum-b"], 0.0)}) == "uniform"


def test_uniform_over_half_of_the_layers_is_broad_and_no_other_plan_is(candidates: dict[str, Plan]) -> None:
    uniform, mlp = valued(candidates["upper"], 1.0), valued(candidates["mlp"], 5.0)
    assert 2 * len(uniform.ranks) == len(uniform.layers)
    assert believed_best({"uniform": uniform, "mlp": mlp}) == "uniform"
    assert believed_best({"upper": uniform, "mlp": mlp}) == "mlp"


def test_every_layer_means_those_that_the_budgets_reach(candidates: dict[str, Plan]) -> None:
    uniform, deeper = (valued(candidates[name], value, reach=1) for name, value in (("upper", 1.0), ("mlp", 5.0)))
    assert believed_best({"uniform": uniform, "mlp": deeper}) == "uniform"
    assert why_believed("uniform", uniform) == "broad and low rank first"


def test_uniform_is_the_simplest_then_few_ranks_then_breadth(candidates: dict[str, Plan]) -> None:
    remaining = dict(candidates)
    simple = []
    while remaining:
        simple.append(simplest(remaining))
        del remaining[simple[-1]]
    assert simple[:2] == ["uniform", "rank-1"]
    assert simple.index("attention") < simple.index("mlp") < simple.index("mlp-output")


def test_an_optimum_is_told_from_a_structured_plan_by_its_ranks(candidates: dict[str, Plan]) -> None:
    assert {name for name, plan in candidates.items() if not is_structured(plan)} == {"optimum-a", "optimum-b"}


@pytest.fixture(scope="module")
def mixes(task_model: TaskModel) -> dict[str, Plan]:
    methods: dict[str, tuple[Method, ...]] = {
        "adapter": (Method.ADAPTER,),
        "prefix": (Method.PREFIX,),
        "prefix+all": (Method.LORA, Method.PREFIX),
        "adapter+prefix": (Method.ADAPTER, Method.PREFIX),
    }
    return {name: mixed_plan(task_model, TaskKind.CLASSIFICATION, found, name=name) for name, found in methods.items()}


def test_a_plan_of_adapters_or_prefixes_is_no_simpler_than_lora_for_having_no_ranks(
    candidates: dict[str, Plan], mixes: dict[str, Plan]
) -> None:
    assert simplest({**candidates, **mixes}) == "uniform"
    without = {name: plan for name, plan in {**candidates, **mixes}.items() if name != "uniform"}
    # One rank on every layer is as simple as one size on every sublayer, and wider.
    assert simplest(without) == "rank-1"
    assert simplest({name: mixes[name] for name in ("prefix+all", "prefix", "adapter+prefix")}) == "prefix"


def test_lora_alone_is_believed_before_the_same_breadth_with_a_prefix(
    candidates: dict[str, Plan], mixes: dict[str, Plan]
) -> None:
    assert believed_best({"prefix+all": mixes["prefix+all"], "uniform": candidates["uniform"]}) == "uniform"
    assert believed_best({name: mixes[name] for name in ("adapter", "prefix")}) == "adapter"


def test_other_methods_race_early_and_single_ones_first(candidates: dict[str, Plan], mixes: dict[str, Plan]) -> None:
    order = field_order({**candidates, **mixes})
    assert order[:4] == ["uniform", "rank-1", "adapter", "mlp-output"]
    assert order.index("prefix") < order.index("prefix+all")
    assert order.index("prefix") < order.index("adapter+prefix")
    assert sorted(order) == sorted({**candidates, **mixes})


def test_a_mix_of_one_size_each_is_structured_and_one_of_three_sizes_is_not(mixes: dict[str, Plan]) -> None:
    assert all(is_structured(plan) for plan in mixes.values())
    adapters = [entry for entry in mixes["adapter"].layers if entry.method is Method.ADAPTER]
    sizes = dict(zip([entry.layer for entry in adapters], (1, 2, 4, 4), strict=True))
    uneven = [
        entry.model_copy(update={"size": sizes[entry.layer]}) if entry.method is Method.ADAPTER else entry
        for entry in mixes["adapter"].layers
    ]
    assert not is_structured(mixes["adapter"].model_copy(update={"layers": uneven}))
