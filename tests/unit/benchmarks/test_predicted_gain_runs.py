"""Finished runs are found again, by everything that a run depends on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from predicted_gain_runs import Job, Kind, Outcome, Store, halves_agreement
from predicted_gain_subjects import STORIES

JOB = Job(Kind.LORA, "layer", "test", ranks=(("layer", 4),), steps=3, batch_size=2, learning_rate=0.01, seed=1)


def test_a_finished_run_is_read_again_and_a_line_that_was_cut_off_is_not(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    store = Store(path, STORIES)
    store.add(JOB, Outcome(np.array([1.5, 2.0]), np.array([3.0]), 0.5))
    store.add(replace(JOB, seed=2), Outcome(np.array([1.0, 2.0]), np.array([3.0]), 0.5))
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    again = Store(path, STORIES)
    assert again[JOB].mean == 1.75
    assert again.get(replace(JOB, seed=2)) is None


@pytest.mark.parametrize(
    "other",
    [
        replace(JOB, seed=2),
        replace(JOB, steps=4),
        replace(JOB, learning_rate=0.02),
        replace(JOB, part="race"),
        replace(JOB, ranks=(("layer", 5),)),
        replace(JOB, kind=Kind.PROBE),
    ],
)
def test_another_job_is_another_run(tmp_path: Path, other: Job) -> None:
    store = Store(tmp_path / "runs.jsonl", STORIES)
    assert store.key(other) != store.key(JOB)


def test_other_held_out_samples_make_other_runs_and_another_grid_does_not(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    key = Store(path, STORIES).key(JOB)
    assert Store(path, replace(STORIES, held_out=7)).key(JOB) != key
    assert Store(path, replace(STORIES, rates=(1.0,), layer_steps=9)).key(JOB) == key


def test_a_run_that_diverged_has_infinite_loss() -> None:
    assert Outcome(np.zeros(0), np.zeros(0), 0.1).mean == float("inf")


def test_a_probe_tells_cosine_inner_product_and_adams_step() -> None:
    one, other = np.array([3.0, -4.0, 0.0]), np.array([6.0, -8.0, 0.0])
    np.testing.assert_allclose(halves_agreement(one, other), [1.0, 50.0, 0.5 * (14.0 + 7.0)])
