from __future__ import annotations

from typing import Any

import pytest

from layerlens.artifacts.plan import Chosen, Plan
from layerlens.artifacts.validation import Check, Verdict
from layerlens.validation.proof import check_proof
from tests.unit.reporting import artifacts
from tests.unit.validation.checking import check_named


def _check(plan: Plan, name: str) -> Check:
    return check_named(check_proof(plan), name)


def _with_solver(**changes: Any) -> Plan:
    plan = artifacts.plan()
    return plan.model_copy(update={"solver": plan.solver.model_copy(update=changes)})


def test_a_proven_optimum_passes() -> None:
    assert _check(artifacts.plan(), "solver_gap").verdict is Verdict.PASS


def test_a_gap_above_a_millionth_fails() -> None:
    check = _check(_with_solver(gap=2e-6), "solver_gap")
    assert (check.verdict, check.value) == (Verdict.FAIL, pytest.approx(2e-6))


def test_a_gap_is_recomputed_from_the_bound_and_not_believed() -> None:
    value = artifacts.plan().solver.value
    check = _check(_with_solver(bound=value * 1.1, gap=0.0), "solver_gap")
    assert (check.verdict, check.value) == (Verdict.FAIL, pytest.approx(0.1))


def test_a_bound_below_the_value_fails() -> None:
    value = artifacts.plan().solver.value
    assert _check(_with_solver(bound=value * 0.9, gap=0.0), "solver_gap").verdict is Verdict.FAIL


def test_an_optimum_that_loses_to_uniform_is_no_optimum() -> None:
    value = artifacts.plan().solver.value
    assert _check(_with_solver(uniform_value=value), "optimum_against_uniform").verdict is Verdict.PASS
    assert _check(_with_solver(uniform_value=value * 1.01), "optimum_against_uniform").verdict is Verdict.FAIL


def test_where_uniform_does_not_fit_there_is_nothing_to_compare_with() -> None:
    plan = _with_solver(uniform_value=None)
    for name in ("optimum_against_uniform", "chosen_against_uniform"):
        assert _check(plan, name).verdict is Verdict.NOT_APPLICABLE


def test_a_choice_below_uniform_is_warned_about_unless_a_race_that_saw_decided() -> None:
    plan = artifacts.plan()
    low = plan.model_copy(update={"chosen": Chosen(name="mlp", value=0.5 * (plan.solver.uniform_value or 0.0))})
    raced = low.model_copy(update={"race": artifacts.race()})
    blind = low.model_copy(update={"race": artifacts.race(is_blind=True)})
    verdicts = [_check(each, "chosen_against_uniform").verdict for each in (plan, low, raced, blind)]
    assert verdicts == [Verdict.PASS, Verdict.WARN, Verdict.NOT_APPLICABLE, Verdict.WARN]
