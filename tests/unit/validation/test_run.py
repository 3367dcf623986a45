from __future__ import annotations

from pathlib import Path

from layerlens.artifacts.plan import load_plan, plan_hash, save_plan
from layerlens.artifacts.store import read_json, write_json
from layerlens.artifacts.validation import Validation, Verdict
from layerlens.validation.run import validate
from tests.unit.reporting import artifacts
from tests.unit.validation.checking import with_layers

NAMED_IN_THE_CONTRACT = {
    "sums",
    "utility_gradient_pearson",
    "utility_fisher_pearson",
    "utility_variation",
    "method_fit",
    "budget.trainable_params",
    "utilisation",
    "rank_utility_spearman",
    "rank_utility_consistency",
    "rank_range",
    "methods_used",
    "solver_gap",
    "profile_match",
    "race",
}


def test_every_promised_check_is_made_once_and_explained_in_one_line() -> None:
    checks = validate(artifacts.raced_plan(), artifacts.profile()).checks
    names = [check.name for check in checks]
    assert set(names) >= NAMED_IN_THE_CONTRACT
    assert len(names) == len(set(names))
    assert all(check.meaning and "\n" not in check.meaning for check in checks)


def test_a_plan_as_made_does_not_fail() -> None:
    assert not validate(artifacts.raced_plan(), artifacts.profile()).has_failed


def test_only_sums_budgets_ranges_fit_proof_and_origin_can_fail() -> None:
    plan = artifacts.plan("flat", artifacts.candidate_sizes()["query+value"])
    flat = with_layers(plan, lambda number, entry: {"utility": 0.0})
    validation = validate(flat, None)
    assert not validation.has_failed
    assert any(check.verdict is Verdict.WARN for check in validation.checks)


def test_a_plan_edited_on_disk_is_described_and_fails(tmp_path: Path) -> None:
    edited = with_layers(artifacts.plan(), lambda number, entry: {"size": entry.size + 1} if number == 35 else {})
    save_plan(tmp_path / "plan.json", edited)
    validation = validate(load_plan(tmp_path / "plan.json", is_strict=False), artifacts.profile())
    assert validation.has_failed
    assert [check.name for check in validation.checks if check.verdict is Verdict.FAIL] == ["sums"]


def test_checks_survive_the_disk_and_know_their_plan(tmp_path: Path) -> None:
    made = validate(artifacts.raced_plan(), artifacts.profile())
    write_json(tmp_path / "validation.json", made)
    assert read_json(tmp_path / "validation.json", Validation) == made
    save_plan(tmp_path / "plan.json", artifacts.raced_plan())
    assert made.plan_hash == plan_hash(load_plan(tmp_path / "plan.json"))
    assert made.plan_hash != validate(artifacts.plan(), None).plan_hash


def test_without_the_profile_every_other_check_is_the_same() -> None:
    plan = artifacts.raced_plan()
    with_profile = {check.name: check for check in validate(plan, artifacts.profile()).checks}
    without = {check.name: check for check in validate(plan, None).checks}
    assert {name for name in without if without[name] != with_profile[name]} == {"profile_match"}
