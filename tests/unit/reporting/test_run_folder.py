from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.artifacts.plan import save_plan
from layerlens.artifacts.profile import save_profile
from layerlens.reporting.run_folder import read_run
from layerlens.validation.run import validate
from tests.unit.reporting import artifacts


def test_everything_that_is_there_is_read_and_nothing_is_missing(tmp_path: Path) -> None:
    plan = artifacts.raced_plan()
    artifacts.write_run(tmp_path, made=plan, evaluated=artifacts.evaluation(), checked=validate(plan, None))
    run = read_run(tmp_path)
    assert run.plan == plan
    assert run.profile == artifacts.profile()
    assert run.timing == artifacts.timing()
    assert run.evaluation == artifacts.evaluation()
    assert run.candidates.keys() == artifacts.candidate_sizes().keys()
    assert run.missing == ()


def test_a_profile_folder_itself_can_be_reported(tmp_path: Path) -> None:
    save_profile(tmp_path, artifacts.profile(), artifacts.curves(), None)
    assert read_run(tmp_path).profile == artifacts.profile()


def test_a_profile_of_another_name_beside_the_plan_is_found_where_the_plan_says(tmp_path: Path) -> None:
    plan = artifacts.plan()
    plan = plan.model_copy(update={"metadata": plan.metadata.model_copy(update={"profile": "elsewhere/measured"})})
    artifacts.write_run(tmp_path, made=plan, has_profile=False, has_candidates=False)
    save_profile(tmp_path / "measured", artifacts.profile(), artifacts.curves(), None)
    assert read_run(tmp_path).profile == artifacts.profile()


def test_each_missing_part_is_named_once_with_the_command_that_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The plan names a profile of the demo, which may lie in the folder that the tests are run from.
    monkeypatch.chdir(tmp_path)
    artifacts.write_run(tmp_path, made=artifacts.plan(), has_profile=False, has_candidates=False)
    missing = read_run(tmp_path).missing
    for command in ("layerlens profile", "layerlens race", "layerlens tune", "layerlens validate"):
        assert sum(f"`{command}" in line for line in missing) == 1


def test_checks_and_candidates_of_another_plan_are_left_out_and_named(tmp_path: Path) -> None:
    planned, raced = artifacts.plan(), artifacts.raced_plan()
    artifacts.write_run(tmp_path, made=raced, evaluated=artifacts.evaluation(), checked=validate(planned, None))
    run = read_run(tmp_path)
    assert run.validation is None
    assert [line for line in run.missing if "another plan than this one" in line and "`layerlens validate" in line]
    metadata = raced.metadata.model_copy(update={"optimization": {"max_trainable_params": 6000}})
    save_plan(tmp_path / "plan.json", raced.model_copy(update={"metadata": metadata}))
    run = read_run(tmp_path)
    assert run.candidates == {}
    assert any("were not made with this plan" in line for line in run.missing)
