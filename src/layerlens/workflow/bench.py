"""`layerlens bench`: a suite of models × tasks × arms × seeds becomes paired, measured runs and a page about them.

    profile ─► plan ─► rate of uniform ─► race ─► rates of the other arms ─► runs ─► bench.json, report.html

Profile, plan and race are made once for each cell, from the first seed (the race from each seed with `race_each_seed`); the
seeds vary training. Rates are tuned on validation samples from the first seed. Each job is a process of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerlens.artifacts.bench import Bench
from layerlens.artifacts.profile import PROFILE_FILE, Profile
from layerlens.artifacts.store import read_json, working_alone, write_bytes, write_json
from layerlens.benching.cells import cells_of, estimated_steps
from layerlens.benching.claim import claim_suite_folder
from layerlens.benching.job import Job, done_record
from layerlens.benching.launch import JobRunner
from layerlens.benching.metrics import metric_fault
from layerlens.benching.suite_file import DEMO_MODEL, placed, read_suite, selected
from layerlens.benching.tracking import check_tracker, track
from layerlens.config import output_path
from layerlens.config.bench import BenchConfig, BenchSuite
from layerlens.errors import ConfigError, ManifestError
from layerlens.progress import SILENT, Progress
from layerlens.reporting.bench.run import build_bench_report
from layerlens.reporting.page import PAGE_FILE
from layerlens.workflow.bench_arms import LAYERLENS, check_arms, kind_of, tuned_for
from layerlens.workflow.bench_cell import BenchCell
from layerlens.workflow.bench_results import BENCH_FILE, collect
from layerlens.workflow.given import given_config

WORKER = "layerlens.workflow.bench_job"


@dataclass(frozen=True)
class PlannedRuns:
    """What a dry run lists: the runs of one arm in one cell."""

    cell: str
    stage: str
    arm: str
    count: int
    steps: int | None
    """Of one run, at most; none where the data decide."""


@dataclass(frozen=True)
class BenchResult:
    """What a suite came to; after a dry run what it would run."""

    folder: Path
    bench: Bench | None
    report: Path | None = None
    planned: list[PlannedRuns] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Why jobs and plans died, by name."""


def bench(
    suite: str | Path | BenchSuite,
    out: str | Path | None = None,
    config: BenchConfig | Mapping[str, Any] | None = None,
    *,
    dry_run: bool = False,
    command: str = "layerlens.bench",
    progress: Progress = SILENT,
) -> BenchResult:
    """Run a suite, or what is missing of it.

    Args:
        suite: Name of a suite in the package, path of a suite file, or a suite.
        out: Folder for the results, `runs/bench/NAME` if not given. A stopped suite goes on there, run by run.
        config: How to run it, and what part of it.
        dry_run: List the runs with their steps, and touch nothing.
        command: The invocation, kept in the results.
        progress: Who watches.

    Returns:
        Every run and what the arms came to. Runs that died are told there; the others went on.

    Raises:
        ConfigError: the suite, an arm or an option is not what it should be, or the folder holds results of another config or of
            other data. Another process works there.
    """
    config = given_config(BenchConfig, config or {})
    read, folder = (suite, None) if isinstance(suite, BenchSuite) else read_suite(str(suite))
    asked = placed(selected(read, config), folder, config, os.environ)
    check_arms(asked.arms)
    check_tracker(asked.report_to)
    _refuse(metric_fault(name, task) for name, task in asked.tasks.items())
    root = output_path(out) if out is not None else Path("runs") / "bench" / asked.name
    cells = [BenchCell(asked, place, place.model_id, root) for place in cells_of(asked)]
    if dry_run:
        return BenchResult(root, None, planned=_planned(asked, cells))
    for cell in cells:
        cell.model = _demo_model() if cell.model == DEMO_MODEL else cell.model
    runner = JobRunner.of(root, config, asked.training.threads or 1, WORKER, _attempt)
    claim_suite_folder(root, asked, may_extend=config.extend)
    with working_alone(root):
        for title, jobs in _stages(cells):
            for cell, job, error in runner.run(jobs, title, progress):
                if error is not None:
                    cell.failures[job.name] = error
                progress.note(f"{job.name}: {_came_to(root, job) if error is None else f'died: {error}'}")
        result = collect(asked, cells, command=command)
        write_json(root / BENCH_FILE, result)
        write_bytes(root / PAGE_FILE, build_bench_report(root).encode())
        track(result, asked.report_to, root)
    failures = {name: error for cell in cells for name, error in cell.failures.items()}
    return BenchResult(root, result, root / PAGE_FILE, failures=failures)


def _stages(cells: list[BenchCell]) -> Iterator[tuple[str, list[tuple[BenchCell, Job]]]]:
    """The jobs of each stage, laid out when the stages before it are over.

    Raises:
        ConfigError: a task lacks the metric that it is to be compared by.
    """
    yield "profiles", _all(cells, BenchCell.profile_jobs)
    _refuse(_metric_fault(cell) for cell in cells)
    for cell in cells:
        cell.make_plans()
    yield "learning rates of uniform", _all(cells, BenchCell.base_rate_jobs)
    yield "races", _all(cells, BenchCell.race_jobs)
    yield "learning rates", _all(cells, BenchCell.rate_jobs)
    yield "runs", _all(cells, _seed_by_seed)


def _seed_by_seed(cell: BenchCell) -> list[Job]:
    """Every arm from one seed before any from the next: a machine that slows down over the hours slows all arms alike."""
    runs = cell.run_jobs()
    return [job for seed in cell.suite.seeds for _, at, job, _ in runs if job is not None and at == seed]


def _refuse(faults: Iterable[str | None]) -> None:
    if found := list(dict.fromkeys(fault for fault in faults if fault is not None)):
        raise ConfigError.of(found)


def _metric_fault(cell: BenchCell) -> str | None:
    """What is wrong with a task's metric now that a profile knows the task; None where it died, which is told elsewhere."""
    try:
        found = read_json(cell.root / cell.profile_job(LAYERLENS).out / PROFILE_FILE, Profile)
    except ManifestError:
        return None
    fault = metric_fault(cell.place.task_name, cell.place.task, found.task)
    return None if fault is None else f"{fault}; set one of these, and choose another --out or remove {cell.root}"


def _all(cells: Iterable[BenchCell], jobs_of: Callable[[BenchCell], list[Job]]) -> list[tuple[BenchCell, Job]]:
    return [(cell, job) for cell in cells for job in jobs_of(cell)]


def _demo_model() -> str:
    """Where the demo's model lies."""
    from layerlens.workflow.demo import demo_model

    return str(demo_model())


def _attempt(root: Path, job: Job) -> None:
    """Do a job in this process; but for the demo's model, only here is torch needed: runs share the memory with this process."""
    from layerlens.workflow.bench_job import attempt

    attempt(root, job)


def _came_to(root: Path, job: Job) -> str:
    """A finished job in a few words."""
    record = done_record(root, job)
    if record is None or record.has_diverged:
        return "diverged"
    if record.arm is None or record.metric is None:
        return f"{record.seconds:.0f} s"
    return f"{record.metric} {record.arm.metrics[record.metric]:.4f}, {record.arm.train_seconds:.0f} s"


def _planned(suite: BenchSuite, cells: list[BenchCell]) -> list[PlannedRuns]:
    found = []
    rates = suite.learning_rates
    for cell in cells:
        steps = estimated_steps(suite, cell.place.task)
        found.append(PlannedRuns(cell.place.title, "profile", "–", len(cell.profile_jobs()), None))
        if cell.raced:
            found.append(PlannedRuns(cell.place.title, "race", "–", len(cell.raced) * len(cell.race_seeds), None))
        tuned = [tuned_for(arm, suite.arms, per_kind=rates.tuned == "kind") for arm in suite.arms]
        for arm in dict.fromkeys([*(["uniform"] if cell.raced else []), *tuned]):
            grid = rates.grid(kind_of(arm))
            if len(grid) > 1:
                found.append(PlannedRuns(cell.place.title, "learning rate", arm, len(grid), steps))
        found += [PlannedRuns(cell.place.title, "run", arm, len(suite.seeds), steps) for arm in suite.arms]
    return found
