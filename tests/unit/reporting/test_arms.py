from __future__ import annotations

import statistics

import pytest

from layerlens.reporting.arms import ArmKind, find_arm, group_arms, kind_of, metric_names
from tests.unit.reporting import artifacts


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("layerlens", ArmKind.LAYERLENS),
        ("LayerLens (blocks-2-5)", ArmKind.LAYERLENS),
        ("uniform", ArmKind.UNIFORM),
        ("full", ArmKind.FULL),
        ("full fine-tuning", ArmKind.FULL),
        ("query+value", ArmKind.OTHER),
        ("head", ArmKind.OTHER),
        ("nonuniform", ArmKind.OTHER),
        ("uniform LoRA", ArmKind.UNIFORM),
        ("uniform-rslora", ArmKind.OTHER),
    ],
)
def test_an_arm_s_kind_is_told_from_its_name(name: str, kind: ArmKind) -> None:
    assert kind_of(name) is kind


def test_arms_are_grouped_by_name_in_order_with_their_seeds() -> None:
    groups = group_arms(artifacts.evaluation())
    assert [group.name for group in groups] == list(artifacts.SCORES)
    assert all(group.seeds == [0, 1, 2] for group in groups)


@pytest.mark.parametrize("name", ["/data/layerlens/bert", "full-model", "uniform"])
def test_what_was_scored_alone_is_no_arm_of_a_kind_whatever_its_path_says(name: str) -> None:
    evaluation = artifacts.evaluation((0,))
    scored = evaluation.arms[0].model_copy(update={"name": name, "train_seconds": 0.0})
    assert group_arms(evaluation.model_copy(update={"arms": [scored]}))[0].kind is ArmKind.OTHER


def test_means_and_deviations_are_over_seeds() -> None:
    group = find_arm(group_arms(artifacts.evaluation()), ArmKind.LAYERLENS)
    assert group is not None
    values = [arm.metrics["accuracy"] for arm in artifacts.evaluation().arms if arm.name == "layerlens"]
    assert group.mean("accuracy") == pytest.approx(statistics.fmean(values))
    assert group.deviation("accuracy") == pytest.approx(statistics.stdev(values))
    assert group.mean("absent") is None


def test_one_seed_has_no_deviation() -> None:
    assert group_arms(artifacts.evaluation((0,)))[0].deviation("accuracy") is None


def test_the_primary_metric_comes_first() -> None:
    evaluation = artifacts.evaluation().model_copy(update={"primary_metric": "loss"})
    assert metric_names(evaluation) == ["loss", "accuracy"]
