"""A job's record: kept for this very job, gone for another of its name."""

from __future__ import annotations

from pathlib import Path

from layerlens.artifacts.store import write_json
from layerlens.benching.job import DONE_FILE, Done, done_record, record_folder, write_job
from tests.unit.benching.suites import job


def test_what_a_stopped_job_left_is_kept_for_it_and_goes_for_one_at_another_rate(tmp_path: Path) -> None:
    first, other = job("run", config={"learning_rate": 1e-3}), job("run", config={"learning_rate": 3e-3})
    assert write_job(tmp_path, first).exists()
    half_done = tmp_path / first.out / "checkpoint"
    half_done.parent.mkdir(parents=True)
    half_done.write_text("half", encoding="utf-8")
    write_json(record_folder(tmp_path, first) / DONE_FILE, Done(job=first, seconds=1.0))

    write_job(tmp_path, first)
    assert half_done.exists()
    assert done_record(tmp_path, first) is not None

    write_job(tmp_path, other)
    assert not half_done.parent.exists()
    assert done_record(tmp_path, first) is None
    assert done_record(tmp_path, other) is None
