"""What a race leaves beside its plan when it does not end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest

from layerlens.adapting.race_state import RaceState, save_state
from layerlens.artifacts.plan import Plan, candidates_folder, save_plan
from layerlens.benching.job import Job, JobKind
from layerlens.errors import NotFiniteError
from layerlens.workflow import bench_job
from layerlens.workflow import race as races
from layerlens.workflow.open import Opened
from tests.unit.reporting import artifacts


def written_plan(folder: Path) -> Path:
    path = folder / "plan.json"
    save_plan(path, artifacts.plan("whitened"))
    save_plan(candidates_folder(path) / "uniform.json", artifacts.plan("uniform"))
    return path


def test_a_race_that_diverged_leaves_nothing_in_the_way_of_another_learning_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = written_plan(tmp_path), Opened.__new__(Opened)
    for name in ("task_model", "data", "part"):
        object.__setattr__(opened, name, None)

    def diverges(*args: Any, state_path: Path, **options: Any) -> NoReturn:
        state_path.write_text("{}")
        raise NotFiniteError("every candidate diverged")

    monkeypatch.setattr(races, "run_race", diverges)
    with pytest.raises(NotFiniteError):
        races.race(path, "data", opened=opened)
    assert not (tmp_path / "plan.race.json").exists()


def test_a_suite_s_job_starts_anew_over_another_race_s_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written_plan(tmp_path)
    seen: dict[str, Any] = {}
    monkeypatch.setattr(bench_job, "open_plan_model", lambda *args, **options: None)

    def race(path: Path, *args: Any, **options: Any) -> races.RaceResult:
        seen.update(options)
        return races.RaceResult(path, artifacts.plan("whitened"), [], seconds=7.0)

    monkeypatch.setattr(bench_job, "race", race)
    job = Job(name="race", kind=JobKind.RACE, out="raced", model="m", data="d", config={}, plan="plan.json")
    assert bench_job.do_job(tmp_path, job).seconds == 7.0
    assert seen["may_start_anew"] is True


@pytest.mark.parametrize(("fingerprint", "before"), [("this race", 100.0), ("another race", 0.0)])
def test_a_race_counts_the_seconds_of_the_one_that_it_goes_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fingerprint: str, before: float
) -> None:
    path, opened = written_plan(tmp_path), Opened.__new__(Opened)
    for name in ("task_model", "data", "part"):
        object.__setattr__(opened, name, None)
    save_state(tmp_path / "plan.race.json", RaceState(fingerprint=fingerprint, seconds=100.0))

    def goes_on(plan: Plan, *args: Any, state_path: Path, **options: Any) -> Plan:
        save_state(state_path, RaceState(fingerprint="this race", seconds=before + 1.0))
        return plan

    monkeypatch.setattr(races, "run_race", goes_on)
    assert races.race(path, "data", opened=opened).seconds == pytest.approx(before, abs=5.0)
    assert not (tmp_path / "plan.race.json").exists()
