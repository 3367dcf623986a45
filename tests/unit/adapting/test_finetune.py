"""Which records of a run are this run's, those too old to tell included; and what is left of one that fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from layerlens.adapting import precision
from layerlens.adapting.tune import tune
from layerlens.artifacts.store import working_alone
from layerlens.config import Precision
from layerlens.errors import ConfigError, NotFiniteError
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


def test_a_run_that_was_stopped_while_batches_were_padded_otherwise_does_not_go_on(tmp_path: Path) -> None:
    task_model, data, part, plan = made("bert", tmp_path / "base")
    evaluation, out = (data, part.test), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        tune(plan, task_model, data, part, evaluation, QUICK, out=out, progress=StopAfter(3))
    claim = (out / "checkpoints" / "run.json").read_text()
    forget(out / "checkpoints" / "run.json", "tokens_padded_to")
    with pytest.raises(ConfigError, match=r"another run's files \(tokens_padded_to was the default, now 16\)"):
        tune(plan, task_model, data, part, evaluation, QUICK, out=out)
    (out / "checkpoints" / "run.json").write_text(claim)
    arm = tune(plan, task_model, data, part, evaluation, QUICK, out=out)
    # One that has ended is what it is.
    forget(out / "arm.json", "run", "tokens_padded_to")
    assert tune(plan, task_model, data, part, evaluation, QUICK, out=out) == arm


def test_an_option_that_came_later_stops_no_run_unless_it_is_used(tmp_path: Path) -> None:
    task_model, data, part, plan = made("bert", tmp_path / "base")
    evaluation, out = (data, part.test), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        tune(plan, task_model, data, part, evaluation, QUICK, out=out, progress=StopAfter(3))
    forget(out / "checkpoints" / "run.json", "config", "warmup_ratio")
    used = QUICK.model_copy(update={"warmup_ratio": 0.5})
    with pytest.raises(ConfigError, match=r"another run's files \(config.warmup_ratio was the default, now 0.5\)"):
        tune(plan, task_model, data, part, evaluation, used, out=out)
    notes = StopAfter(99)
    tune(plan, task_model, data, part, evaluation, QUICK, out=out, progress=notes)
    assert any("resumed from" in note for note in notes.notes)


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    task_model, data, part, plan = made("bert", tmp_path / "base")
    evaluation, checkpoints = (data, part.test), tmp_path / "out" / "checkpoints"
    with pytest.raises(KeyboardInterrupt):
        tune(plan, task_model, data, part, evaluation, QUICK, out=tmp_path / "out", progress=StopAfter(3))
    half = checkpoints / "checkpoint-4"
    half.mkdir()
    with working_alone(checkpoints), pytest.raises(ConfigError, match="another process is working in"):
        tune(plan, task_model, data, part, evaluation, QUICK, out=tmp_path / "out")
    # What the other one is writing is not taken for a checkpoint that was cut short.
    assert half.exists()


def test_divergence_in_the_last_update_leaves_no_adapter(tmp_path: Path) -> None:
    task_model, data, part, plan = made("bert", tmp_path / "base")
    config = QUICK.model_copy(update={"learning_rate": 1e37, "max_steps": 1})
    with pytest.raises(NotFiniteError, match=r"diverged: after step 1 with learning rate 1e\+37 .* not finite; .* use a lower"):
        tune(plan, task_model, data, part, (data, part.test), config, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_stops_before_its_first_checkpoint_gives_the_folder_up(tmp_path: Path) -> None:
    task_model, data, part, plan = made("bert", tmp_path / "base")
    with pytest.raises(KeyboardInterrupt):
        tune(plan, task_model, data, part, (data, part.test), QUICK, out=tmp_path / "out", progress=StopAfter(1))
    assert not (tmp_path / "out").exists()


def test_a_run_whose_adapter_was_removed_is_done_again(tmp_path: Path) -> None:
    task_model, data, part, plan = made("bert", tmp_path / "base")
    adapter = tmp_path / "out" / "adapter"
    for _ in range(2):
        tune(plan, task_model, data, part, (data, part.test), QUICK, out=tmp_path / "out")
        content = {path.name: path.read_bytes() for path in adapter.iterdir()}
        shutil.rmtree(adapter)
    tune(plan, task_model, data, part, (data, part.test), QUICK, out=tmp_path / "out")
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == content


def forget_arithmetic(path: Path, *keys: str) -> None:
    """Make a record what versions wrote that knew neither the arithmetic of a run nor all of its samples."""
    content = json.loads(path.read_text())
    record = content
    for key in keys:
        record = record[key]
    del record["arithmetic"]
    for part in ("training", "evaluation"):
        del record[part]["source"]
    path.write_text(json.dumps(content))


def forget(path: Path, *keys: str) -> None:
    """Take what the last key names out of a record."""
    content = json.loads(path.read_text())
    record = content
    for key in keys[:-1]:
        record = record[key]
    del record[keys[-1]]
    path.write_text(json.dumps(content))
