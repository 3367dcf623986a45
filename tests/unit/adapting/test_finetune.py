"""Which records of a run are this run's: those of its own arithmetic, and those too old to tell theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layerlens.adapting import precision
from layerlens.adapting.tune import tune
from layerlens.config import Precision
from layerlens.errors import ConfigError
from tests.unit.adapting.test_tune import QUICK, StopAfter, made


def test_a_run_goes_on_in_its_own_arithmetic_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task_model, data, part, plan = made("bert", tmp_path / "base")
    evaluation, out = (data, part.test), tmp_path / "out"
    config = QUICK.model_copy(update={"precision": Precision.AUTO})
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: False)
    with pytest.raises(KeyboardInterrupt):
        tune(plan, task_model, data, part, evaluation, config, out=out, progress=StopAfter(3))
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: True)
    with pytest.raises(ConfigError, match=r"another run's files \(arithmetic.bf16 was False, now True\)"):
        tune(plan, task_model, data, part, evaluation, config, out=out)
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: False)
    arm = tune(plan, task_model, data, part, evaluation, config, out=out)
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: True)
    with pytest.raises(ConfigError, match=r"belongs to another run \(arithmetic.bf16 was False, now True\)"):
        tune(plan, task_model, data, part, evaluation, config, out=out)
    forget_arithmetic(out / "arm.json", "run")
    assert tune(plan, task_model, data, part, evaluation, config, out=out) == arm


def test_a_stopped_run_of_an_older_version_goes_on(tmp_path: Path) -> None:
    task_model, data, part, plan = made("bert", tmp_path / "base")
    evaluation, out = (data, part.test), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        tune(plan, task_model, data, part, evaluation, QUICK, out=out, progress=StopAfter(3))
    forget_arithmetic(out / "checkpoints" / "run.json")
    notes = StopAfter(99)
    tune(plan, task_model, data, part, evaluation, QUICK, out=out, progress=notes)
    assert any("resumed from" in note for note in notes.notes)


def forget_arithmetic(path: Path, *keys: str) -> None:
    """Make a record what versions wrote that did not know the arithmetic of a run."""
    content = json.loads(path.read_text())
    record = content
    for key in keys:
        record = record[key]
    del record["arithmetic"]
    path.write_text(json.dumps(content))
