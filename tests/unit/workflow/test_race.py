"""What a race leaves beside its plan when it does not end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest

from layerlens.artifacts.plan import candidates_folder, save_plan
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
    monkeypatch.setattr(bench_job, "race", lambda *args, **options: seen.update(options))
    bench_job.do_job(tmp_path, Job(name="race", kind=JobKind.RACE, out="raced", model="m", data="d", config={}, plan="plan.json"))
    assert seen["may_start_anew"] is True
