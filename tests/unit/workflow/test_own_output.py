"""Commands that write one file replace what they have written there before, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.artifacts.profile import save_profile
from layerlens.artifacts.validation import Verdict
from layerlens.errors import ConfigError
from layerlens.workflow.report import report
from layerlens.workflow.validate import validate
from tests.unit.reporting.artifacts import plan, write_run
from tests.unit.reporting.synthetic_profile import curves, profile, timing


def test_checks_and_a_page_replace_their_like_alone(tmp_path: Path) -> None:
    write_run(tmp_path, made=plan())
    for _ in range(2):
        validate(tmp_path / "plan.json")
        assert report(tmp_path) == tmp_path / "report.html"
    mine = tmp_path / "mine.json"
    mine.write_text("[]")
    for write in (lambda: validate(tmp_path / "plan.json", mine), lambda: report(tmp_path, mine)):
        with pytest.raises(ConfigError, match=r"mine\.json is there, and is not what this command writes"):
            write()
    with pytest.raises(ConfigError, match=r"is a folder; name the file to write, such as .*report\.html"):
        report(tmp_path, tmp_path)
    assert mine.read_text() == "[]"


def test_a_dry_run_checks_and_reports_but_writes_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, made=plan())
    before = sorted(tmp_path.rglob("*"))
    checks = validate(tmp_path / "plan.json", tmp_path / "mine.json", dry_run=True)
    assert report(tmp_path, dry_run=True) == tmp_path / "report.html"
    assert sorted(tmp_path.rglob("*")) == before
    assert validate(tmp_path / "plan.json", tmp_path / "mine.json") == checks


def test_a_plan_is_checked_against_its_own_profile_wherever_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, elsewhere = write_run(tmp_path / "run", made=plan()), tmp_path / "elsewhere"
    save_profile(elsewhere / plan().metadata.profile, profile().model_copy(update={"seed": 7}), curves(), timing())
    monkeypatch.chdir(elsewhere)
    verdicts = {check.name: check.verdict for check in validate(run / "plan.json").checks}
    assert verdicts["profile_match"] is Verdict.PASS
