from __future__ import annotations

from typing import Any

import pytest

from layerlens.artifacts.plan import Plan, PlanLayer
from layerlens.artifacts.validation import Check, Verdict
from layerlens.validation.methods import check_methods, fits
from layerlens.words import Method, Role, Site
from tests.unit.reporting import artifacts
from tests.unit.validation.checking import check_named, with_layers, with_options


def _check(plan: Plan, name: str) -> Check:
    return check_named(check_methods(plan), name)


def _entry(**fields: Any) -> PlanLayer:
    return artifacts.plan().layers[0].model_copy(update={"size": 4, **fields})


@pytest.mark.parametrize(
    ("method", "site", "role", "is_fit"),
    [
        (Method.LORA, Site.LINEAR, "attention.query", True),
        (Method.LORA, Site.LINEAR, "other", True),
        (Method.LORA, Site.SUBLAYER, "mlp.down", False),
        (Method.LORA, Site.LINEAR, "head", False),
        (Method.ADAPTER, Site.SUBLAYER, "attention.output", True),
        (Method.ADAPTER, Site.SUBLAYER, "mlp.down", True),
        (Method.ADAPTER, Site.SUBLAYER, "mlp.up", False),
        (Method.ADAPTER, Site.LINEAR, "mlp.down", False),
        (Method.PREFIX, Site.ATTENTION, "attention", True),
        (Method.PREFIX, Site.ATTENTION, "attention.query", False),
        (Method.PREFIX, Site.LINEAR, "attention", False),
    ],
)
def test_a_method_fits_only_the_sites_that_can_hold_it(method: Method, site: Site, role: str, is_fit: bool) -> None:
    assert fits(_entry(method=method, site=site, role=role, kv_features=384)) is is_fit


def test_every_role_that_a_planned_layer_can_have_may_get_a_lora() -> None:
    planned = [role for role in Role if role not in (Role.EMBEDDING, Role.POOLER, Role.HEAD)]
    assert all(fits(_entry(method=Method.LORA, role=role.value)) for role in planned)


def test_a_plan_passes_with_95_percent_of_its_methods_in_place_and_fails_below() -> None:
    plan = artifacts.plan("uniform", artifacts.candidate_sizes()["uniform"])
    assert len(plan.adapted) == 36
    one = with_layers(plan, lambda number, entry: {"role": "head"} if number < 1 else {})
    two = with_layers(plan, lambda number, entry: {"role": "head"} if number < 2 else {})
    assert _check(one, "method_fit").verdict is Verdict.PASS
    assert _check(two, "method_fit").verdict is Verdict.FAIL
    assert _check(two, "method_fit").value == pytest.approx(34 / 36)


def test_a_rank_beyond_a_tenth_of_the_hidden_size_fails_and_is_named() -> None:
    plan = with_layers(artifacts.plan(), lambda number, entry: {"size": 39} if number == 35 else {})
    check = _check(plan, "rank_range")
    assert check.verdict is Verdict.FAIL
    assert plan.layers[35].layer in str(check.value)
    assert check.target.startswith("1 … 38")


def test_a_largest_rank_that_was_asked_for_takes_the_place_of_the_rule() -> None:
    plan = with_layers(artifacts.plan(), lambda number, entry: {"size": 39} if number == 35 else {})
    assert _check(with_options(plan, max_rank=64), "rank_range").verdict is Verdict.PASS
    assert _check(with_options(plan, max_rank=32), "rank_range").verdict is Verdict.FAIL


def test_a_plan_that_adapts_nothing_is_warned_about_and_passes_nothing() -> None:
    verdicts = {check.name: check.verdict for check in check_methods(artifacts.plan("none", {}))}
    assert verdicts == {
        "rank_range": Verdict.NOT_APPLICABLE,
        "method_fit": Verdict.NOT_APPLICABLE,
        "methods_used": Verdict.WARN,
    }


def test_methods_are_counted_for_information_and_never_pass() -> None:
    check = _check(artifacts.plan("uniform", artifacts.candidate_sizes()["uniform"]), "methods_used")
    assert check.value == "1: lora on 36 of 36 sites"
    assert check.verdict is Verdict.NOT_APPLICABLE
