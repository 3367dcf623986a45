"""The file of a stopped race: gone on with, refused where another race finds it, and never written over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layerlens.adapting.race_state import RaceState, Run, open_state, save_state
from layerlens.errors import ConfigError

RACE = {"config": {"learning_rate": 0.01}, "candidates": {"uniform": "a1"}}
OTHER = {"config": {"learning_rate": 0.02}, "candidates": {"uniform": "a1"}}
RUN = Run(candidate="uniform", steps=3, seed=0, losses=[1.0, 2.0])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A race with one finished run was stopped here."""
    found = tmp_path / "plan.race.json"
    save_state(found, RaceState(fingerprint="one", race=RACE, runs=[RUN]))
    return found


@pytest.mark.parametrize("may_start_anew", [False, True])
def test_the_same_race_goes_on(path: Path, may_start_anew: bool) -> None:
    state, note = open_state(path, "one", RACE, may_start_anew=may_start_anew)
    assert (state.runs, note) == ([RUN], None)


def test_another_race_is_refused_with_what_differs_and_a_way_out(path: Path) -> None:
    written = path.read_bytes()
    with pytest.raises(
        ConfigError, match=r"plan.race.json holds 1 runs .* \(config.learning_rate was 0.01, now 0.02\); .*remove"
    ):
        open_state(path, "two", OTHER, may_start_anew=False)
    assert path.read_bytes() == written


def test_where_it_may_start_anew_the_runs_are_put_aside(path: Path) -> None:
    written = path.read_bytes()
    state, note = open_state(path, "two", OTHER, may_start_anew=True)
    assert (state.runs, state.fingerprint, state.race) == ([], "two", OTHER)
    assert note is not None
    assert "learning_rate was 0.01, now 0.02" in note
    save_state(path, state)
    assert (path.parent / "plan.race.json.old").read_bytes() == written


def test_an_option_that_came_later_or_changes_no_run_stops_no_race_unless_it_is_used(path: Path) -> None:
    later = {"config": {"learning_rate": 0.01, "warmup_ratio": 0.1}, "candidates": {"uniform": "a1"}}
    assert open_state(path, "two", later, may_start_anew=False)[0].runs == [RUN]
    content = json.loads(path.read_text())
    content["race"]["config"]["eval_data"] = "told once, and not needed"
    path.write_text(json.dumps(content))
    assert open_state(path, "two", later, may_start_anew=False)[0].runs == [RUN]
    later["config"]["warmup_ratio"] = 0.5
    with pytest.raises(ConfigError, match=r"this race differs \(config.warmup_ratio was the default, now 0.5\)"):
        open_state(path, "two", later, may_start_anew=False)


def test_a_race_of_a_version_without_the_option_was_one_with_dropout(path: Path) -> None:
    def now(dropout: bool) -> dict[str, Any]:
        return {"config": {"learning_rate": 0.01, "dropout": dropout}, "candidates": {"uniform": "a1"}}

    assert open_state(path, "two", now(True), may_start_anew=False)[0].runs == [RUN]
    with pytest.raises(ConfigError, match=r"this race differs \(config.dropout was True, now False\)"):
        open_state(path, "two", now(False), may_start_anew=False)


def test_a_file_of_an_older_version_is_gone_on_with_or_put_aside(path: Path) -> None:
    content = json.loads(path.read_text())
    del content["race"]
    path.write_text(json.dumps(content))
    assert open_state(path, "one", RACE, may_start_anew=False)[0].runs == [RUN]
    state, note = open_state(path, "two", OTHER, may_start_anew=False)
    assert state.runs == []
    assert note is not None
    assert "too old to say what differs" in note
    assert json.loads((path.parent / "plan.race.json.old").read_text()) == content


def test_a_damaged_file_is_put_aside_and_one_without_runs_is_no_loss(path: Path) -> None:
    path.write_text("{ half a")
    state, note = open_state(path, "one", RACE, may_start_anew=False)
    assert state.runs == []
    assert note is not None
    assert "is damaged" in note
    assert (path.parent / "plan.race.json.old").read_text() == "{ half a"
    save_state(path, RaceState(fingerprint="one", race=RACE, start=[1.0]))
    assert open_state(path, "two", OTHER, may_start_anew=False) == (RaceState(fingerprint="two", race=OTHER), None)
