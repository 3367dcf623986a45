from __future__ import annotations

from typing import Any

from layerlens.artifacts.plan import UNIFORM, Race
from layerlens.artifacts.validation import Check, Verdict
from layerlens.validation.evidence import check_evidence
from tests.unit.reporting import artifacts
from tests.unit.validation.checking import check_named


def _checks(race: Race | None) -> list[Check]:
    return check_evidence(artifacts.plan(race=race))


def _runners(**changes: dict[str, Any]) -> Race:
    race = artifacts.race()
    runners = [runner.model_copy(update=changes.get(runner.name.replace("-", "_"), {})) for runner in race.candidates]
    return race.model_copy(update={"candidates": runners})


def test_a_plan_that_was_not_raced_is_warned_about_once() -> None:
    assert [(check.name, check.verdict) for check in _checks(None)] == [("race", Verdict.WARN)]


def test_a_race_that_saw_passes_and_its_price_is_printed() -> None:
    checks = _checks(artifacts.race())
    assert check_named(checks, "race").verdict is Verdict.PASS
    share = check_named(checks, "race_share")
    assert (share.value, share.verdict) == ("11.0 % of the tuning run", Verdict.NOT_APPLICABLE)


def test_a_blind_race_is_warned_about_and_its_winner_was_not_measured() -> None:
    checks = _checks(artifacts.race(is_blind=True, winner="never-ran"))
    assert check_named(checks, "race").verdict is Verdict.WARN
    assert check_named(checks, "race_winner_length").verdict is Verdict.NOT_APPLICABLE


def test_a_race_that_was_stopped_too_early_is_warned_about_and_measured_nothing_of_its_winner() -> None:
    checks = _checks(artifacts.race(is_blind=True, is_stopped=True, margin=None, interval=None))
    assert (check_named(checks, "race").verdict, check_named(checks, "race").value) == (
        Verdict.WARN,
        "was stopped before it could decide",
    )
    assert check_named(checks, "race_winner_length").verdict is Verdict.NOT_APPLICABLE
    assert check_named(checks, "race_margin").value == "too little was measured"
    empty = _checks(artifacts.race(candidates=[], is_blind=True, is_stopped=True, margin=None, interval=None))
    assert [(check.name, check.value) for check in empty] == [("race", "was stopped before it could decide")]


def test_a_single_candidate_did_not_race() -> None:
    checks = _checks(artifacts.race(candidates=[], margin=None, interval=None))
    assert [(check.name, check.verdict) for check in checks] == [("race", Verdict.WARN)]


def test_uniform_must_run_to_the_end() -> None:
    early = check_named(_checks(_runners(uniform={"steps": 20})), "race_has_uniform")
    assert (early.verdict, early.value) == (Verdict.WARN, "20 of 40 steps")
    without = artifacts.race()
    without = without.model_copy(update={"candidates": [runner for runner in without.candidates if runner.name != UNIFORM]})
    assert check_named(_checks(without), "race_has_uniform").verdict is Verdict.WARN
    assert check_named(_checks(artifacts.race()), "race_has_uniform").verdict is Verdict.PASS


def test_the_winner_needs_20_steps_from_two_seeds() -> None:
    for changes, verdict in (
        ({}, Verdict.PASS),
        ({"steps": 19}, Verdict.WARN),
        ({"seeds": [0]}, Verdict.WARN),
        ({"seeds": [0, 0]}, Verdict.WARN),
    ):
        assert check_named(_checks(_runners(blocks_2_5=changes)), "race_winner_length").verdict is verdict


def test_a_margin_whose_interval_holds_zero_is_called_noise() -> None:
    clear = check_named(_checks(artifacts.race()), "race_margin")
    noisy = check_named(_checks(artifacts.race(interval=[-0.01, 0.02])), "race_margin")
    assert "within noise" not in str(clear.value)
    assert "within noise" in str(noisy.value)
