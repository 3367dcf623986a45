from __future__ import annotations

import pytest

from layerlens.artifacts.validation import Verdict
from layerlens.validation.origin import check_origin, differences
from tests.unit.reporting import artifacts
from tests.unit.validation.checking import with_layers


def test_a_plan_matches_the_profile_it_was_made_from() -> None:
    assert differences(artifacts.plan(), artifacts.profile()) == []
    assert check_origin(artifacts.plan(), artifacts.profile())[0].verdict is Verdict.PASS


def test_without_the_profile_the_check_does_not_apply() -> None:
    assert check_origin(artifacts.plan(), None)[0].verdict is Verdict.NOT_APPLICABLE


def test_a_plan_of_another_model_fails_and_both_are_named() -> None:
    plan = artifacts.plan()
    other = plan.model_copy(update={"model": plan.model.model_copy(update={"id": "other/model", "hash": "f" * 64})})
    check = check_origin(other, artifacts.profile())[0]
    assert check.verdict is Verdict.FAIL
    assert "other/model" in str(check.value)
    assert artifacts.profile().model.id in str(check.value)


def test_a_plan_of_another_profile_of_the_same_model_fails() -> None:
    other = artifacts.profile().model_copy(update={"seed": 7})
    assert check_origin(artifacts.plan(), other)[0].verdict is Verdict.FAIL


@pytest.mark.parametrize("field", ["utility", "in_features", "layer"])
def test_a_layer_that_was_edited_is_named(field: str) -> None:
    edits = {"utility": 0.999, "in_features": 385, "layer": "bert.encoder.layer.9.output.dense"}
    plan = with_layers(artifacts.plan(), lambda number, entry: {field: edits[field]} if number == 3 else {})
    faults = differences(plan, artifacts.profile())
    assert faults
    assert all(plan.layers[3].layer in fault or artifacts.profile().layers[3].layer in fault for fault in faults)
