"""`layerlens bench` on a tiny model: run, resumed, interrupted, refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from layerlens.artifacts.bench import Bench
from layerlens.artifacts.store import read_json, working_alone
from layerlens.benching.job import JOBS_FOLDER, Job, JobKind
from layerlens.cli import main
from layerlens.workflow import bench_job
from tests.functional.conftest import Run, write_table
from tests.tiny_models import save_tiny

SUITE: dict[str, Any] = {
    "name": "tiny",
    "models": {"bert": "model"},
    "tasks": {"halves": {"data": "data.csv", "max_length": 16, "max_eval_samples": 16}},
    "arms": ["full", "uniform", "layerlens"],
    "seeds": [0, 1],
    "budget": {"max_trainable_params": 2000},
    "training": {"batch_size": 8, "max_steps": 2, "threads": 1},
    "learning_rates": {"full": [1e-3], "adapter": [1e-3, 1e-2], "tuned": "kind", "samples": 8},
    "profiling": {"num_samples": 16, "head_samples": 16, "proxy": "off"},
    "race": {"share": 1.0, "min_steps": 1, "held_out_samples": 8, "only": ["uniform", "mlp"]},
}


def write_suite(folder: Path, **changes: object) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(SUITE | changes), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite file with its model and data, and in `out` what it came to."""
    folder = tmp_path_factory.mktemp("bench")
    save_tiny("bert", folder / "model")
    write_table(folder / "data.csv", rows=120)
    assert main(["bench", str(write_suite(folder)), "--out", str(folder / "out"), "--processes", "0"]) == 0
    return folder


@pytest.fixture
def copied(place: Path, tmp_path: Path) -> Path:
    """A finished suite to damage; its file still lies beside model and data."""
    shutil.copytree(place / "out", tmp_path / "out")
    return tmp_path / "out"


def forget(out: Path, name: str) -> None:
    """Remove a run and its record."""
    for runs in (out / JOBS_FOLDER / "bert@halves" / "runs", out / "bert@halves" / "runs"):
        shutil.rmtree(runs / name)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that are really done from now on."""
    jobs: list[Job] = []
    whole = bench_job.do_job

    def counted(root: Path, job: Job, *rest: object) -> object:
        jobs.append(job)
        return whole(root, job, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(bench_job, "do_job", counted)
    return jobs


def test_every_run_is_measured_and_every_arm_compared(place: Path) -> None:
    made = read_json(place / "out" / "bench.json", Bench)
    assert [(run.arm, run.seed) for run in made.runs] == [(arm, seed) for arm in SUITE["arms"] for seed in (0, 1)]
    assert not made.failed
    (cell,) = made.cells
    assert (cell.metric, cell.eval_samples, cell.steps) == ("accuracy", 16, 2)
    by_arm = {arm.arm: arm for arm in cell.arms}
    for arm in ("uniform", "layerlens"):
        runs = [run for run in made.runs if run.arm == arm]
        assert by_arm[arm].mean == pytest.approx(sum(run.metrics["accuracy"] for run in runs) / 2)
        assert all(0 < run.trainable_params <= 2000 and run.train_seconds > 0 and run.peak_memory_bytes > 0 for run in runs)
        assert by_arm[arm].against("full") is not None
    # At exactly equal parameters, at the one rate that validation chose.
    assert by_arm["uniform"].trainable_params == by_arm["layerlens"].trainable_params
    rates = {choice.arm: choice for choice in cell.rates}
    best = max(rates["uniform"].trials, key=lambda trial: (trial.metrics["accuracy"], -trial.metrics["loss"]))
    assert rates["uniform"].rate == rates["layerlens"].rate == best.rate
    assert {run.learning_rate for run in made.runs if run.arm != "full"} == {best.rate}
    (cost,) = cell.costs
    assert cost.seconds > 0
    assert cost.share_of_5000_steps == pytest.approx(cost.share_of_run * 2 / 5000)


def test_rates_are_tuned_on_samples_that_no_arm_is_tested_on(place: Path) -> None:
    scored = {}
    for kind in ("rates/uniform-0.001", "runs/uniform-seed0"):
        found = json.loads((place / "out" / "bert@halves" / kind / "arm.json").read_text())
        scored[kind] = found["run"]["evaluation"]["indices"]
    assert len(set(scored.values())) == 2


def test_a_second_call_runs_nothing_and_ends_with_the_same_bytes(place: Path, copied: Path, done: list[Job], run: Run) -> None:
    outcome = run("bench", place / "tiny.yaml", "--out", copied, "--processes", 0)
    assert (outcome.code, done) == (0, [])
    before, after = (read_json(folder / "bench.json", Bench) for folder in (place / "out", copied))
    assert after.model_copy(update={"command": before.command}) == before


def test_only_what_is_missing_runs_again_seed_by_seed(place: Path, copied: Path, done: list[Job], run: Run) -> None:
    for name in ("uniform-seed1", "layerlens-seed0"):
        forget(copied, name)
    assert run("bench", place / "tiny.yaml", "--out", copied, "--processes", 0).code == 0
    assert [(job.kind, job.arm) for job in done] == [(JobKind.RUN, "layerlens"), (JobKind.RUN, "uniform")]
    before, after = (read_json(folder / "bench.json", Bench) for folder in (place / "out", copied))
    assert [one.metrics for one in after.runs] == [one.metrics for one in before.runs]


def test_a_plan_whose_seconds_a_kill_kept_from_being_written_is_timed_again(
    place: Path, copied: Path, done: list[Job], run: Run
) -> None:
    cell = copied / "bert@halves"
    (cell / "plan.seconds.json").unlink()
    plan = (cell / "plan.json").read_bytes()
    outcome = run("bench", place / "tiny.yaml", "--out", copied, "--processes", 0)
    assert (outcome.code, done, (cell / "plan.json").read_bytes()) == (0, [], plan)
    before, after = (read_json(folder / "bench.json", Bench).cells[0] for folder in (place / "out", copied))
    assert after.costs[0].plan_seconds > 0
    assert after.costs[0].profile_seconds == before.costs[0].profile_seconds


def test_a_run_that_dies_stops_no_other_and_goes_on_when_called_again(
    place: Path, copied: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("uniform-seed1", "layerlens-seed1"):
        forget(copied, name)
    whole = bench_job.run_arm

    def dying(name: str, *rest: object, **options: object) -> object:
        if name == "uniform":
            raise MemoryError("no memory left")
        return whole(name, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(bench_job, "run_arm", dying)
    outcome = run("bench", place / "tiny.yaml", "--out", copied, "--processes", 0)
    assert outcome.code == 1
    assert "MemoryError: no memory left" in outcome.out
    made = read_json(copied / "bench.json", Bench)
    assert [(one.arm, one.seed) for one in made.failed] == [("uniform", 1)]
    assert {arm.arm: arm.seeds for arm in made.cells[0].arms} == {"full": [0, 1], "uniform": [0], "layerlens": [0, 1]}
    assert "MemoryError" in (copied / "report.html").read_text(encoding="utf-8")
    monkeypatch.setattr(bench_job, "run_arm", whole)
    assert run("bench", place / "tiny.yaml", "--out", copied, "--processes", 0).code == 0
    assert not read_json(copied / "bench.json", Bench).failed


def test_a_profile_that_dies_is_the_end_of_its_cell_alone(place: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "broken.csv").write_text("text,label\nonly one row,1\n", encoding="utf-8")
    tasks = {"broken": {"data": str(tmp_path / "broken.csv")}}
    suite = place / "broken.yaml"
    suite.write_text(yaml.safe_dump(SUITE | {"tasks": tasks}), encoding="utf-8")
    outcome = run("bench", suite, "--out", tmp_path / "out", "--processes", 0)
    assert outcome.code == 1
    made = read_json(tmp_path / "out" / "bench.json", Bench)
    assert len(made.failed) == len(made.runs) == 6
    assert all("no plan: " in (one.error or "") for one in made.failed)


def test_another_config_is_refused_with_what_differs(place: Path, copied: Path, run: Run, tmp_path: Path) -> None:
    changed = place / "changed.yaml"
    changed.write_text(yaml.safe_dump(SUITE | {"training": {"batch_size": 4, "max_steps": 2, "threads": 1}}), encoding="utf-8")
    outcome = run("bench", changed, "--out", copied)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "training.batch_size was 8, now 4" in outcome.err


def test_an_unknown_arm_is_bad_input(place: Path, tmp_path: Path, run: Run) -> None:
    outcome = run("bench", place / "tiny.yaml", "--out", tmp_path / "out", "--arms", "full,uniformm")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "unknown arm uniformm; known are full, head" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_lists_the_runs_and_touches_nothing(place: Path, tmp_path: Path, run: Run) -> None:
    outcome = run("bench", place / "tiny.yaml", "--out", tmp_path / "out", "--dry-run")
    assert outcome.code == 0
    lines = [line.split() for line in outcome.out.splitlines() if " run " in line]
    assert [line[4] for line in lines] == SUITE["arms"]
    assert all(line[5:] == ["×", "2,", "2", "steps", "each"] for line in lines)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("metric", "kinds"), [("bleu", []), ("macro_f1", [JobKind.PROFILE])])
def test_a_metric_that_the_task_lacks_is_told_before_anything_is_trained(
    place: Path, tmp_path: Path, done: list[Job], run: Run, metric: str, kinds: list[JobKind]
) -> None:
    tasks = {"halves": SUITE["tasks"]["halves"] | {"metric": metric}}
    suite = place / "metric.yaml"
    suite.write_text(yaml.safe_dump(SUITE | {"tasks": tasks}), encoding="utf-8")
    outcome = run("bench", suite, "--out", tmp_path / "out", "--processes", 0)
    assert outcome.code == 2
    assert f"tasks.halves.metric: {metric} is no metric of" in outcome.err.splitlines()[-1]
    assert [job.kind for job in done] == kinds
    assert (tmp_path / "out").exists() == bool(kinds)


def test_data_that_have_changed_are_refused_before_any_stage(place: Path, tmp_path: Path, done: list[Job], run: Run) -> None:
    data = tmp_path / "data.csv"
    shutil.copyfile(place / "data.csv", data)
    suite, out = tmp_path / "tiny.yaml", tmp_path / "out"
    changes = {"models": {"bert": str(place / "model")}, "arms": ["full"], "seeds": [0]}
    suite.write_text(yaml.safe_dump(SUITE | changes), encoding="utf-8")
    assert run("bench", suite, "--out", out, "--processes", 0).code == 0
    done.clear()
    data.write_text(data.read_text(encoding="utf-8") + "one row more,1\n", encoding="utf-8")
    outcome = run("bench", suite, "--out", out, "--processes", 0)
    assert (outcome.code, outcome.err.count("\n"), done) == (2, 1, [])
    assert f"{data} changed since" in outcome.err


def test_a_folder_that_another_call_works_in_is_refused(place: Path, copied: Path, run: Run) -> None:
    forget(copied, "layerlens-seed1")
    with working_alone(copied):
        outcome = run("bench", place / "tiny.yaml", "--out", copied, "--processes", 0)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "another process is working" in outcome.err


def test_conditions_are_those_of_the_runs_and_not_of_the_last_call(place: Path, copied: Path, done: list[Job], run: Run) -> None:
    record = copied / JOBS_FOLDER / "bert@halves" / "runs" / "full-seed0" / "done.json"
    content = json.loads(record.read_text(encoding="utf-8"))
    assert (content["conditions"]["processes"], content["conditions"]["machine"][-9:]) == (0, "1 threads")
    content["conditions"] |= {"machine": "another machine", "processes": 2}
    record.write_text(json.dumps(content), encoding="utf-8")
    assert run("bench", place / "tiny.yaml", "--out", copied, "--processes", 7).code == 0
    assert done == []
    made = read_json(copied / "bench.json", Bench)
    assert made.machine.startswith("another machine; ")
    assert [note for note in made.notes if "at a time" in note] == [
        "Up to 2 runs went on at a time, so seconds hold what they took from each other; compare ratios.",
        next(note for note in made.notes if note.startswith("Runs of bert on halves were made under different conditions")),
    ]
    assert set(made.versions) == {"python", "layerlens", "torch", "transformers", "peft"}
