"""Which records of a run are this run's, those too old to tell included; and what is left of one that fails."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial, reduce
from operator import getitem
from pathlib import Path

import pytest

from layerlens.adapting import precision
from layerlens.adapting.tune import tune
from layerlens.artifacts.evaluation import Arm
from layerlens.artifacts.store import working_alone
from layerlens.config import Precision, TuneConfig
from layerlens.data.tasks.classification import Classification
from layerlens.data.tasks.question_answering import QuestionAnswering
from layerlens.errors import ConfigError, NotFiniteError
from tests.unit.adapting.test_tune import QUICK, StopAfter, made

#: What versions did not tell of a run that knew neither its arithmetic nor all of its samples.
UNTOLD = ("arithmetic", "training.source", "evaluation.source")


def test_a_run_goes_on_in_its_own_arithmetic_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = QUICK.model_copy(update={"precision": Precision.AUTO})
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: False)
    go_on, out = stopped(tmp_path, config)
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: True)
    with pytest.raises(ConfigError, match=r"another run's files \(arithmetic.bf16 was False, now True\)"):
        go_on(config)
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: False)
    arm = go_on(config)
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: True)
    with pytest.raises(ConfigError, match=r"belongs to another run \(arithmetic.bf16 was False, now True\)"):
        go_on(config)
    forget(out / "arm.json", *(f"run.{key}" for key in UNTOLD))
    assert go_on(config) == arm


def test_a_stopped_run_of_an_older_version_goes_on(tmp_path: Path) -> None:
    go_on, out = stopped(tmp_path)
    forget(out / "checkpoints" / "run.json", *UNTOLD)
    notes = StopAfter(99)
    go_on(QUICK, progress=notes)
    assert any("resumed from" in note for note in notes.notes)


def test_a_run_that_was_stopped_while_batches_were_padded_otherwise_does_not_go_on(tmp_path: Path) -> None:
    go_on, out = stopped(tmp_path)
    claim = (out / "checkpoints" / "run.json").read_text()
    forget(out / "checkpoints" / "run.json", "tokens_padded_to")
    with pytest.raises(ConfigError, match=r"another run's files \(tokens_padded_to was the default, now 16\)"):
        go_on(QUICK)
    (out / "checkpoints" / "run.json").write_text(claim)
    arm = go_on(QUICK)
    # One that has ended is what it is.
    forget(out / "arm.json", "run.tokens_padded_to")
    assert go_on(QUICK) == arm


def test_an_arm_of_another_loss_is_another_run_though_it_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Classification, "loss_identity", QuestionAnswering.loss_identity)
    go_on, out = stopped(tmp_path)
    arm = go_on(QUICK)
    assert go_on(QUICK) == arm
    forget(out / "arm.json", "run.loss_over")
    with pytest.raises(ConfigError, match=r"belongs to another run \(loss_over was the default, now own tokens\)"):
        go_on(QUICK)


def test_an_option_that_came_later_stops_no_run_unless_it_is_used(tmp_path: Path) -> None:
    go_on, out = stopped(tmp_path)
    forget(out / "checkpoints" / "run.json", "config.warmup_ratio")
    with pytest.raises(ConfigError, match=r"another run's files \(config.warmup_ratio was the default, now 0.5\)"):
        go_on(QUICK.model_copy(update={"warmup_ratio": 0.5}))
    notes = StopAfter(99)
    go_on(QUICK, progress=notes)
    assert any("resumed from" in note for note in notes.notes)


def test_a_run_of_a_version_without_the_option_was_one_with_dropout(tmp_path: Path) -> None:
    with_dropout = QUICK.model_copy(update={"dropout": True})
    go_on, out = stopped(tmp_path, with_dropout)
    forget(out / "checkpoints" / "run.json", "config.dropout")
    with pytest.raises(ConfigError, match=r"another run's files \(config.dropout was True, now False\)"):
        go_on(QUICK)
    notes = StopAfter(99)
    arm = go_on(with_dropout, progress=notes)
    assert any("resumed from" in note for note in notes.notes)
    forget(out / "arm.json", "run.config.dropout")
    with pytest.raises(ConfigError, match=r"belongs to another run \(config.dropout was True, now False\)"):
        go_on(QUICK)
    assert go_on(with_dropout) == arm


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    go_on, out = stopped(tmp_path)
    checkpoints = out / "checkpoints"
    half = checkpoints / "checkpoint-4"
    half.mkdir()
    with working_alone(checkpoints), pytest.raises(ConfigError, match="another process is working in"):
        go_on(QUICK)
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
    # What a process that was killed while it saved had written so far.
    (adapter.parent / ".adapter.0abc_xyz").mkdir()
    tune(plan, task_model, data, part, (data, part.test), QUICK, out=tmp_path / "out")
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == content
    assert {path.name for path in adapter.parent.iterdir()} == {"adapter", "arm.json"}


def test_checkpoints_that_a_kill_left_beside_an_ended_arm_go_and_those_asked_for_stay(tmp_path: Path) -> None:
    go_on, out = stopped(tmp_path)
    checkpoints = out / "checkpoints"
    shutil.copytree(checkpoints, tmp_path / "left")
    arm = go_on(QUICK)
    shutil.copytree(tmp_path / "left", checkpoints)
    assert go_on(QUICK) == arm
    assert not checkpoints.exists()
    (out / "arm.json").unlink()
    shutil.copytree(tmp_path / "left", checkpoints)
    go_on(QUICK.model_copy(update={"keep_checkpoints": True}))
    go_on(QUICK)
    assert checkpoints.exists()


def stopped(tmp_path: Path, config: TuneConfig = QUICK) -> tuple[Callable[..., Arm], Path]:
    """A run that was stopped after its third step: what goes on with it, and its folder."""
    task_model, data, part, plan = made("bert", tmp_path / "base")
    out = tmp_path / "out"
    go_on = partial(tune, plan, task_model, data, part, (data, part.test), out=out)
    with pytest.raises(KeyboardInterrupt):
        go_on(config, progress=StopAfter(3))
    return go_on, out


def forget(path: Path, *dotted: str) -> None:
    """Take out of a record what the versions that wrote it did not know."""
    content = json.loads(path.read_text())
    for keys in dotted:
        *folders, last = keys.split(".")
        del reduce(getitem, folders, content)[last]
    path.write_text(json.dumps(content))
