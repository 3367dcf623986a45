"""Who is believed, who is simple, and who races first when not all can."""

from __future__ import annotations

import pytest

from layerlens.adapting.prior import believed_best, field_order, is_structured, simplest
from layerlens.artifacts.plan import Plan
from layerlens.models.load import TaskModel
from layerlens.models.roles import describe_layers
from layerlens.words import Role, TaskKind
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
