"""One job of a suite, in a process of its own: `python -m layerlens.workflow.bench_job ROOT JOB.json PARENT PROCESSES`.

The record says how it ended; a process that leaves none was killed.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from layerlens.adapting.arms.run import run_arm
from layerlens.artifacts.plan import candidates_folder, load_candidates, load_plan
from layerlens.artifacts.store import read_json, write_json
from layerlens.artifacts.versions import installed_versions
from layerlens.benching.job import DONE_FILE, FAILED_FILE, Conditions, Done, Failed, Job, JobKind, reason_of, record_folder
from layerlens.config import DataConfig, ProfilingConfig, RaceConfig, TuneConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition, partition
from layerlens.data.sources.opening import TEST_SPLIT, has_split_to_choose, has_test_split
from layerlens.errors import ConfigError, DataError, NotFiniteError
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.threads import threads
from layerlens.orphan import leave_with
from layerlens.progress import SILENT, Progress
from layerlens.workflow.machine import machine_kind
from layerlens.workflow.open import open_data, open_plan_model
from layerlens.workflow.profile import profile
from layerlens.workflow.race import race
from layerlens.workflow.tune import PACKAGES


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the job of the given file; 0 when it is done."""
    root, path, parent, processes = sys.argv[1:] if arguments is None else arguments
    leave_with(int(parent))
    logging.basicConfig(level=logging.INFO)
    return 0 if attempt(Path(root), read_json(Path(path), Job), processes=int(processes)) else 1


def attempt(root: Path, job: Job, progress: Progress = SILENT, *, processes: int = 0) -> bool:
    """Do a job and leave its record, whatever happens.

    Args:
        root: The suite's folder.
        job: What to do.
        progress: Who watches.
        processes: Jobs at a time, which the record keeps; 0 where this process does them all.

    Returns:
        True when it is done.
    """
    folder = record_folder(root, job)
    try:
        done = do_job(root, job, progress).model_copy(update={"conditions": _conditions(job, processes)})
    except Exception as error:
        # Whatever goes wrong in one run is that run's end and no other's.
        traceback.print_exc()
        write_json(folder / FAILED_FILE, Failed(error=reason_of(error)))
        return False
    write_json(folder / DONE_FILE, done)
    return True


def _conditions(job: Job, processes: int) -> Conditions:
    with threads(job.config.get("threads")):
        machine = machine_kind()
    return Conditions(machine=machine, processes=processes, versions=installed_versions(*PACKAGES))


def do_job(root: Path, job: Job, progress: Progress = SILENT) -> Done:
    """Do a job.

    Args:
        root: The suite's folder.
        job: What to do.
        progress: Who watches.

    Raises:
        LayerLensError: what the job asks for cannot be done.
    """
    match job.kind:
        case JobKind.PROFILE:
            return _profile(root, job, progress)
        case JobKind.RACE:
            return _race(root, job, progress)
        case JobKind.RATE:
            try:
                return _train(root, job, progress)
            except NotFiniteError:
                # A rate that diverges is a rate not to take; the next one shall not find the wreck.
                shutil.rmtree(root / job.out, ignore_errors=True)
                return Done(job=job, seconds=0.0, has_diverged=True)
        case JobKind.RUN:
            return _train(root, job, progress)


def _profile(root: Path, job: Job, progress: Progress) -> Done:
    config = ProfilingConfig.model_validate(job.config)
    data = open_data(open_checkpoint(job.model), job.data, config)
    part = partition(len(data.examples), data.splits, seed=config.seed, has_eval_data=_has_eval_data(job))
    # Samples that cannot test anything end the cell here, and not when all of its rates are tuned.
    _test_samples(data, part, job, config)
    made = profile(job.model, job.data, root / job.out, config, progress=progress)
    # Planning prices time over the run's epochs, and they follow from how many samples there are to train on.
    return Done(job=job, seconds=sum(made.seconds.values()), train_samples=len(part.train))


def _race(root: Path, job: Job, progress: Progress) -> Done:
    config = RaceConfig.model_validate(job.config)
    source, path = root / _given(job.plan), root / job.out / "plan.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, path)
    shutil.rmtree(candidates_folder(path), ignore_errors=True)
    shutil.copytree(candidates_folder(source), candidates_folder(path))
    opened = open_plan_model(load_plan(path), job.data, config, has_eval_data=_has_eval_data(job))
    # The suite decides what a job is; runs that do not belong to it are of another machine or of data that have changed.
    raced = race(path, job.data, config, progress=progress, opened=opened, may_start_anew=True)
    return Done(job=job, seconds=raced.seconds)


def _train(root: Path, job: Job, progress: Progress) -> Done:
    config = TuneConfig.model_validate(job.config)
    plan = load_plan(root / _given(job.plan))
    opened = open_plan_model(plan, job.data, config, has_eval_data=_has_eval_data(job))
    is_trial = job.kind is JobKind.RATE
    scored = (opened.data, opened.part.race) if is_trial else _test_samples(opened.data, opened.part, job, config)
    start = time.perf_counter()
    arm = run_arm(
        job.trained or _given(job.arm),
        plan,
        load_candidates(root / _given(job.candidates)),
        opened.task_model,
        opened.data,
        opened.part,
        scored,
        config,
        out=root / job.out,
        progress=progress,
        race=None if job.race is None else RaceConfig.model_validate(job.race),
        **({} if job.rank is None else {"rank": job.rank}),
    )
    metric = job.metric or opened.data.task.primary_metric
    if metric not in arm.metrics:
        known = ", ".join(sorted(arm.metrics))
        raise ConfigError(f"metric: {opened.data.task.info.kind} has no {metric}; it has {known}")
    return Done(
        job=job,
        seconds=time.perf_counter() - start,
        arm=arm,
        metric=metric,
        eval_samples=min(len(scored[1]), config.max_eval_samples or len(scored[1])),
    )


def _test_samples(data: LoadedData, part: Partition, job: Job, config: DataConfig) -> tuple[LoadedData, Sequence[int]]:
    """The samples of the final score, which nothing was trained, tuned or chosen on: of a source with a test split only that.

    Raises:
        DataError: there are none, they are those that are trained on, or a split was asked for of data that have none to choose.
    """
    if not _has_eval_data(job):
        return data, part.test
    source = job.eval_data or job.data
    if job.eval_split is not None and not has_split_to_choose(source):
        raise DataError(
            f"eval_split {job.eval_split}: {source} is read whole, for only a hub data set or several splits that `datasets` has "
            "saved have one to choose; leave eval_split out, or give the file of that split as eval_data"
        )
    split = job.eval_split or (TEST_SPLIT if has_test_split(source) else config.split)
    found = open_data(open_checkpoint(job.model), source, config.model_copy(update={"split": split}), data.task.info)
    if not len(found.examples):
        raise DataError(f"{source} holds no samples to test on; give other eval_data")
    if tests := [index for index, name in enumerate(found.splits or []) if name == "test"]:
        return found, tests
    # Not every source has the splits that it is asked for.
    if found.has_samples_of(data):
        shown = f"split {job.eval_split} of {source}" if job.eval_split else source
        raise DataError(
            f"{shown} holds the very samples of {job.data} that are trained on; give other eval_data, or leave it and eval_split "
            "out for a seeded part of the data"
        )
    return found, range(len(found.examples))


def _has_eval_data(job: Job) -> bool:
    return job.eval_data is not None or job.eval_split is not None


def _given(value: str | None) -> str:
    if value is None:
        raise ConfigError("the job lacks a plan, its candidates or an arm; remove the suite's folder jobs/ and run it again")
    return value


if __name__ == "__main__":
    sys.exit(main())
