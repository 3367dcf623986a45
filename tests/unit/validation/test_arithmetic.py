from __future__ import annotations

import pytest

from layerlens.artifacts.plan import Budget, Plan
from layerlens.artifacts.validation import Check, Verdict
from layerlens.validation.arithmetic import check_arithmetic
from layerlens.words import BudgetName
from tests.unit.reporting import artifacts
from tests.unit.validation.checking import check_named, with_layers, with_options


def _check(plan: Plan, name: str) -> Check:
    return check_named(check_arithmetic(plan), name)


def _with_budgets(plan: Plan, **budgets: Budget) -> Plan:
    return plan.model_copy(update={"budgets": {BudgetName(name): budget for name, budget in budgets.items()}})


def test_a_plan_as_made_adds_up_and_keeps_its_budgets() -> None:
    checks = check_arithmetic(artifacts.plan())
    assert [check.verdict for check in checks] == [Verdict.PASS] * len(checks)
    assert [check.name for check in checks] == ["sums", "budget.trainable_params", "budget.vram_bytes", "utilisation"]


def test_a_layer_edited_by_hand_fails_the_sums_and_is_named() -> None:
    plan = artifacts.plan()
    edited = with_layers(plan, lambda number, entry: {"params": entry.params + 1} if number == 35 else {})
    check = _check(edited, "sums")
    assert check.verdict is Verdict.FAIL
    assert plan.layers[35].layer in str(check.value)


def test_a_value_that_is_not_the_sum_of_the_layers_fails() -> None:
    plan = artifacts.plan()
    edited = plan.model_copy(update={"chosen": plan.chosen.model_copy(update={"value": plan.chosen.value + 0.01})})
    assert _check(edited, "sums").verdict is Verdict.FAIL


@pytest.mark.parametrize(("spent", "verdict"), [(50_000.0, Verdict.PASS), (50_001.0, Verdict.FAIL)])
def test_a_budget_is_kept_up_to_its_limit_and_not_one_beyond(spent: float, verdict: Verdict) -> None:
    plan = _with_budgets(artifacts.plan(), trainable_params=Budget(limit=50_000, spent=spent))
    assert _check(plan, "budget.trainable_params").verdict is verdict


@pytest.mark.parametrize(
    ("spent", "verdict"), [(69.0, Verdict.WARN), (70.0, Verdict.PASS), (100.0, Verdict.PASS), (101.0, Verdict.WARN)]
)
def test_utilisation_wants_70_to_100_percent(spent: float, verdict: Verdict) -> None:
    plan = _with_budgets(artifacts.plan(), flops=Budget(limit=100.0, spent=spent))
    assert _check(plan, "utilisation").verdict is verdict


def test_utilisation_looks_at_the_binding_budget_alone() -> None:
    plan = _with_budgets(artifacts.plan(), flops=Budget(limit=100.0, spent=5.0), latency_ms=Budget(limit=1.0, spent=0.9))
    check = _check(plan, "utilisation")
    assert check.verdict is Verdict.PASS
    assert check.value == "90.0 % of latency_ms"


def test_utilisation_counts_against_the_share_that_may_be_spent() -> None:
    plan = with_options(_with_budgets(artifacts.plan(), flops=Budget(limit=100.0, spent=50.0)), max_utilisation=0.5)
    assert _check(plan, "utilisation").verdict is Verdict.PASS


def test_without_a_limit_nothing_is_kept_or_used() -> None:
    plan = _with_budgets(artifacts.plan(), flops=Budget(spent=5.0))
    checks = check_arithmetic(plan)
    assert [check.name for check in checks] == ["sums", "utilisation"]
    assert checks[1].verdict is Verdict.NOT_APPLICABLE
