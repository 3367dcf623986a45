"""What a race leaves beside its plan when it does not end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest

from layerlens.adapting.evidence import uncontested
from layerlens.adapting.race_state import RaceState, Run, open_state, save_state
from layerlens.artifacts.plan import Plan, candidates_folder, load_plan, save_plan
from layerlens.benching.job import Job, JobKind
from layerlens.cli import main
from layerlens.errors import NotFiniteError
from layerlens.words import TaskKind
from layerlens.workflow import bench_job
from layerlens.workflow import race as races
from layerlens.workflow.open import Opened
from tests.unit.adapting.plans import make_plan, tiny_task_model, uneven_ranks
from tests.unit.reporting import artifacts


def written_plan(folder: Path) -> Path:
    path = folder / "plan.json"
    save_plan(path, artifacts.plan("whitened"))
    save_plan(candidates_folder(path) / "uniform.json", artifacts.plan("uniform"))
    return path


def nothing_opened() -> Opened:
    """What stands for model and data where the race itself is replaced."""
    opened = Opened.__new__(Opened)
    for name in ("task_model", "data", "part"):
        object.__setattr__(opened, name, None)
    return opened


def test_a_race_that_diverged_leaves_nothing_in_the_way_of_another_learning_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = written_plan(tmp_path), nothing_opened()

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
    path, opened = written_plan(tmp_path), nothing_opened()
    save_state(tmp_path / "plan.race.json", RaceState(fingerprint=fingerprint, seconds=100.0))

    def goes_on(plan: Plan, *args: Any, state_path: Path, **options: Any) -> Plan:
        save_state(state_path, RaceState(fingerprint="this race", seconds=before + 1.0))
        return plan

    monkeypatch.setattr(races, "run_race", goes_on)
    assert races.race(path, "data", opened=opened).seconds == pytest.approx(before, abs=5.0)
    assert not (tmp_path / "plan.race.json").exists()


def test_a_race_without_rivals_leaves_the_runs_of_a_stopped_one_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = written_plan(tmp_path), nothing_opened()
    state, run = tmp_path / "plan.race.json", Run(candidate="uniform", steps=20, seed=0, losses=[1.0])
    save_state(state, RaceState(fingerprint="one", race={"config": {}}, runs=[run]))
    written = state.read_bytes()
    monkeypatch.setattr(
        races, "run_race", lambda plan, candidates, *args, **options: uncontested({"uniform": plan}, "uniform", {})
    )
    assert races.race(path, "data", opened=opened).plan.race is not None
    assert state.read_bytes() == written
    assert load_plan(path).race is not None


def test_runs_of_a_race_that_was_killed_when_its_plan_was_there_stop_no_other_race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = written_plan(tmp_path), nothing_opened()
    state, run = tmp_path / "plan.race.json", Run(candidate="uniform", steps=20, seed=0, losses=[1.0])

    def raced(plan: Plan, *args: Any, state_path: Path, **options: Any) -> Plan:
        save_state(state_path, RaceState(fingerprint="one", race={"config": {}}, runs=[run]))
        return plan

    def killed(place: Path, plan: Plan) -> NoReturn:
        save_plan(place, plan)
        raise KeyboardInterrupt

    monkeypatch.setattr(races, "run_race", raced)
    monkeypatch.setattr(races, "save_plan", killed)
    with pytest.raises(KeyboardInterrupt):
        races.race(path, "data", opened=opened)
    assert state.exists()
    # The same race goes on from its runs, another one begins with none.
    assert open_state(state, "one", {"config": {}}, may_start_anew=False)[0].runs == [run]
    assert open_state(state, "two", {"data": "other"}, may_start_anew=False)[0].runs == []


def test_a_dry_run_checks_all_that_a_race_would_and_says_who_would_race_for_how_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = TaskKind.CLASSIFICATION
    task_model = tiny_task_model("bert", tmp_path / "model", kind)
    sizes = {"optimum-whitened": uneven_ranks(task_model), "uniform": 2, "low": 1}
    made = {name: make_plan(task_model, kind, ranks, name=name) for name, ranks in sizes.items()}
    path, rows = tmp_path / "plan-0.5", tmp_path / "data.csv"
    save_plan(path, made["optimum-whitened"])
    for name, plan in made.items():
        save_plan(tmp_path / "plan-0.5.candidates" / f"{name}.json", plan)
    rows.write_text("text,label\n" + "".join(f"w{number % 7} w1,c{number % 3}\n" for number in range(120)), encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    arguments = ["race", str(path), "--dry-run", "--min-steps", "4", "--tuning-steps", "30", "--data"]
    assert main([*arguments, str(rows)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "field uniform, optimum-whitened unraced low: the share affords no more" in said
    assert "round 1 2 plans × 4 steps × 2 seeds" in said
    assert "share 53% of the tuning run's 30 steps" in said
    for faulty, told in (
        ([str(rows), "--only", "nobody"], "no candidate named nobody"),
        ([str(tmp_path / "nothing.csv")], "nothing.csv"),
    ):
        assert main([*arguments, *faulty]) == 2
        assert told in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
