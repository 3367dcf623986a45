"""A race that a time limit ends says how far it came, and claims nothing that it has not measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.adapting.race import race
from layerlens.artifacts.plan import Plan
from layerlens.config import RaceConfig
from tests.unit.adapting.races import QUICK, Parts, Watcher, made_parts, pair


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return made_parts(tmp_path / "model")


def stopped(name: str, candidates: dict[str, Plan], parts: Parts, config: RaceConfig, state: Path, *, after: int) -> Plan:
    """What a race makes of a plan that was interrupted `after` so many steps of progress and gone on with out of time."""
    task_model, data, part, _ = parts
    with pytest.raises(KeyboardInterrupt):
        race(candidates[name], candidates, task_model, data, part, config, state_path=state, progress=Watcher(after))
    out_of_time = config.model_copy(update={"max_seconds": 1e-6})
    return race(candidates[name], candidates, task_model, data, part, out_of_time, state_path=state)


def test_a_race_out_of_time_starts_no_new_run(parts: Parts) -> None:
    task_model, data, part, candidates = parts
    config = QUICK.model_copy(update={"max_seconds": 1e-6})
    watcher = Watcher()
    raced = race(candidates["all"], candidates, task_model, data, part, config, state_path=None, progress=watcher)
    assert raced.race is not None
    assert raced.race.details["is_out_of_time"]
    assert (raced.race.winner, raced.race.is_blind, raced.race.share_of_tuning) == ("all", True, 0.0)
    assert raced.race.is_stopped
    assert raced.race.verdict.startswith("nothing was measured: the time limit of 1e-06 s came before every plan had run once")
    assert raced == candidates["all"].model_copy(update={"race": raced.race})
    assert any("stops at its limit" in note for note in watcher.notes)


def test_a_race_stopped_where_it_is_blind_takes_the_prior_and_says_how_far_it_ran(parts: Parts, tmp_path: Path) -> None:
    candidates = parts[-1]
    config = QUICK.model_copy(update={"min_steps": 4, "tuning_steps": 200, "share": 0.2})
    raced = stopped("mlp", candidates, parts, config, tmp_path / "state.json", after=4)
    assert raced.race is not None
    assert raced.race.verdict.startswith(
        "stopped by its time limit after round 1 of 2, 1 seed, and blind there: two halves of the"
    )
    assert raced.race.verdict.endswith("; the prior chose low (broad and low rank first)")
    assert (raced.race.winner, raced.race.margin, raced.race.is_blind, raced.race.is_stopped) == ("low", None, True, True)
    assert (raced.layers, raced.chosen) == (candidates["low"].layers, candidates["low"].chosen)
    assert {(entry.steps, len(entry.seeds)) for entry in raced.race.candidates} == {(3, 1)}


def test_a_race_stopped_after_a_finalist_s_steps_from_two_seeds_chooses_and_says_how_far_it_came(
    parts: Parts, tmp_path: Path
) -> None:
    candidates = parts[-1]
    changes = {"min_steps": 50, "tuning_steps": 60, "held_out_samples": 40, "batch_size": 16, "num_seeds": 3}
    config, runners = QUICK.model_copy(update=changes), pair(candidates, "uniform", "all")
    raced = stopped("uniform", runners, parts, config, tmp_path / "state.json", after=5)
    assert raced.race is not None
    assert raced.race.verdict.startswith("stopped by its time limit after round 1 of 1, 2 seeds: all won by ")
    assert (raced.race.winner, raced.race.is_blind, raced.race.is_stopped) == ("all", False, True)
    assert {tuple(entry.seeds) for entry in raced.race.candidates} == {(0, 1)}


def test_a_longer_race_that_is_stopped_leaves_the_word_to_the_one_that_was_run_to_its_end(parts: Parts) -> None:
    task_model, data, part, candidates = parts
    changes = {"may_extend": True, "tuning_steps": 12, "share": 0.1, "learning_rate": 1e-7, "max_seconds": 3600.0}
    config, runners = QUICK.model_copy(update=changes), pair(candidates, "uniform", "all")

    class Hurried(Watcher):
        def note(self, text: str) -> None:
            super().note(text)
            if "it runs on to 6" in text:
                object.__setattr__(config, "max_seconds", 1e-6)

    watcher = Hurried()
    raced = race(runners["all"], runners, task_model, data, part, config, state_path=None, progress=watcher)
    assert raced.race is not None
    assert any("stops at its limit" in note for note in watcher.notes)
    assert [rung["steps"] for rung in raced.race.details["rungs"]] == [3]
    assert raced.race.verdict.startswith("blind: ")
    assert (raced.race.is_blind, raced.race.is_stopped, raced.race.details["is_out_of_time"]) == (True, False, True)
