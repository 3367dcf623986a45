"""A job's record: kept for this very job, gone for another of its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.artifacts.store import write_json
from layerlens.benching.job import DONE_FILE, Done, JobKind, done_record, options_of, record_folder, write_job
from layerlens.config import RaceConfig, TuneConfig
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


@pytest.mark.parametrize("config", [TuneConfig(), RaceConfig()], ids=["tune", "race"])
def test_a_record_of_a_version_without_the_option_is_one_with_dropout(config: TuneConfig | RaceConfig, tmp_path: Path) -> None:
    made = [job("run", config=options_of(config.model_copy(update={"dropout": drawn}))) for drawn in (True, False)]
    with_dropout, without = made
    for one, other in (made, reversed(made)):
        write_json(record_folder(tmp_path, one) / DONE_FILE, Done(job=one, seconds=1.0))
        assert done_record(tmp_path, one) is not None
        assert done_record(tmp_path, other) is None
    older = Done(job=with_dropout, seconds=1.0).model_dump(mode="json")
    del older["job"]["config"]["dropout"]
    write_json(record_folder(tmp_path, without) / DONE_FILE, older)
    assert done_record(tmp_path, with_dropout) is not None
    assert done_record(tmp_path, without) is None


def test_a_profile_has_no_options_of_training() -> None:
    assert job("profile", kind=JobKind.PROFILE, config={}).config == {}
