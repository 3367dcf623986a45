"""One piece of a suite's work, and its record: `jobs/NAME/` with `job.json`, `log.txt`, and `done.json` or `failed.json`.

A job is done when its record says so for this very job; so a suite that was stopped runs only what is missing.
"""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from layerlens.artifacts.evaluation import Arm
from layerlens.artifacts.store import read_json, write_json
from layerlens.config.training import ONCE, RaceConfig, TuneConfig
from layerlens.errors import LayerLensError, ManifestError
from layerlens.words import Frozen

JOBS_FOLDER = "jobs"
JOB_FILE, LOG_FILE, DONE_FILE, FAILED_FILE = "job.json", "log.txt", "done.json", "failed.json"


class JobKind(StrEnum):
    """What a job does."""

    PROFILE = "profile"
    RACE = "race"
    RATE = "rate"
    """A training run that is scored on validation samples."""
    RUN = "run"
    """A training run that is scored on test samples."""


class Job(Frozen):
    """A piece of work that a process of its own can do. Paths are relative to the suite's folder."""

    name: str = Field(description="of its record's folder")
    kind: JobKind
    out: str = Field(description="folder of what it makes")
    model: str
    data: str
    config: dict[str, Any] = Field(
        description="ProfilingConfig, RaceConfig or TuneConfig, without what is at its default and not in config.training.ONCE"
    )
    eval_data: str | None = None
    eval_split: str | None = None
    plan: str | None = Field(default=None, description="the plan to race or to train")
    plan_hash: str | None = None
    candidates: str | None = Field(default=None, description="the plan whose candidates hold uniform")
    arm: str | None = Field(default=None, description="as the results call it")
    trained: str | None = Field(default=None, description="the arm that is run, where the results call it otherwise")
    rank: int | None = Field(default=None, description="of query+value")
    race: dict[str, Any] | None = Field(
        default=None, description="of a search: what its trials share with the race, without what is at RaceConfig's default"
    )
    metric: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _says_what_was_once_done(cls, content: Any) -> Any:
        if not isinstance(content, dict) or not isinstance(content.get("config"), dict) or content.get("kind") == JobKind.PROFILE:
            return content
        return content | {"config": {**ONCE, **content["config"]}}


def options_of(config: RaceConfig | TuneConfig) -> dict[str, Any]:
    """A job's config: what is not at its default, and what older records leave out though it was not done as it is by default."""
    return config.model_dump(mode="json", exclude_defaults=True) | {name: getattr(config, name) for name in ONCE}


class Conditions(Frozen):
    """Under what a job was done."""

    machine: str
    processes: int = Field(ge=0, description="jobs at a time, as asked; 0: all in the suite's own process")
    versions: dict[str, str]


class Done(Frozen):
    """The record of a job that ended well."""

    job: Job
    seconds: float = Field(description="of the work itself, opening of model and data apart")
    arm: Arm | None = None
    metric: str | None = Field(default=None, description="the metric that the task is compared by")
    eval_samples: int | None = None
    train_samples: int | None = Field(default=None, description="samples that a run of this data may train on")
    has_diverged: bool = Field(default=False, description="a learning rate that was too high: an answer like any other")
    conditions: Conditions | None = Field(default=None, description="records of older versions leave them out")


class Failed(Frozen):
    """The record of a job that died."""

    error: str


def record_folder(root: Path, job: Job) -> Path:
    """Where a job's record lies."""
    return root / JOBS_FOLDER / job.name


def write_job(root: Path, job: Job) -> Path:
    """Write `job.json`, and forget how an earlier try ended; what another job of this name left, at another rate, goes."""
    folder = record_folder(root, job)
    if (folder / JOB_FILE).exists() and _is_other(folder / JOB_FILE, job):
        (folder / DONE_FILE).unlink(missing_ok=True)
        shutil.rmtree(root / job.out, ignore_errors=True)
    write_json(folder / JOB_FILE, job)
    (folder / FAILED_FILE).unlink(missing_ok=True)
    return folder / JOB_FILE


def _is_other(path: Path, job: Job) -> bool:
    try:
        return read_json(path, Job) != job
    except ManifestError:
        return True


def done_record(root: Path, job: Job) -> Done | None:
    """The record of this very job, if it has ended well."""
    try:
        found = read_json(record_folder(root, job) / DONE_FILE, Done)
    except ManifestError:
        return None
    return found if found.job == job else None


def reason_of(error: Exception) -> str:
    """Why something died, on one line; an error that LayerLens does not raise on purpose is named by its type."""
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, LayerLensError) else f"{type(error).__name__}: {text}"


def failure_of(root: Path, job: Job, exit_code: int) -> str:
    """Why a job died: in its own words, else by how its process ended."""
    folder = record_folder(root, job)
    try:
        return read_json(folder / FAILED_FILE, Failed).error
    except ManifestError:
        pass
    if exit_code < 0:
        return f"killed by signal {-exit_code}; see {folder / LOG_FILE}"
    last = _last_line(folder / LOG_FILE)
    return f"its process ended with code {exit_code}{f' ({last})' if last else ''}; see {folder / LOG_FILE}"


def _last_line(path: Path) -> str:
    """What a process said last, which is its error where it had one."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")
