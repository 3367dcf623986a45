"""A small suite, and jobs and runs made by hand, for the tests of this folder."""

from __future__ import annotations

from typing import Any

from layerlens.artifacts.bench import Bench, BenchRun
from layerlens.benching.job import Job, JobKind
from layerlens.config.bench import BenchSuite


def suite(**changes: Any) -> BenchSuite:
    content = {
        "name": "small",
        "models": {"tiny": "folder"},
        "tasks": {"docs": {"data": "stdlib-docs", "max_length": 16}},
        "arms": ["full", "uniform", "layerlens"],
        "seeds": [0, 1],
        "budget": {"max_trainable_params": 1000},
        "training": {"batch_size": 8, "max_steps": 4},
    }
    return BenchSuite.model_validate(content | changes)


def job(name: str, **changes: Any) -> Job:
    content: dict[str, Any] = {"name": name, "kind": JobKind.RUN, "out": name, "model": "m", "data": "d", "config": {}}
    return Job.model_validate(content | changes)


def run(arm: str, seed: int, score: float | None, **changes: Any) -> BenchRun:
    """A run of one model and task; without a score it died."""
    content: dict[str, Any] = {"model": "tiny", "task": "docs", "arm": arm, "seed": seed, "steps": 4, "learning_rate": 1e-3}
    if score is None:
        content["error"] = "killed by signal 9"
    else:
        content |= {"metrics": {"accuracy": score, "loss": 1.0 - score}, "train_seconds": 2.0, "peak_memory_bytes": 100}
    return BenchRun.model_validate(content | changes)


def bench(**changes: Any) -> Bench:
    content: dict[str, Any] = {"suite": "small", "seeds": [0, 1], "arms": ["full", "uniform", "layerlens"], "cells": []}
    return Bench.model_validate(content | {"runs": [], "command": "layerlens bench small"} | changes)
