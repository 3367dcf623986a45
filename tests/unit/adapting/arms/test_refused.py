"""Arms that cannot be run are refused by name, before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.adapting.arms.names import ArmName
from layerlens.adapting.arms.refused import why_refused
from layerlens.errors import ConfigError
from layerlens.words import TaskKind
from tests.unit.adapting.arms.settings import NUM_SAMPLES, Setting, made
from tests.unit.adapting.bases import COMPRESSED, open_base, save_family
from tests.unit.adapting.plans import made_data, make_plan


def test_a_language_model_has_no_head_to_train_alone(tmp_path: Path) -> None:
    setting = made(tmp_path, "gpt2")
    assert setting.plan.head == []
    with pytest.raises(ConfigError, match=r"head: a plan for causal-lm trains no head, .*; leave head out"):
        setting.run("head", "out")
    assert not (tmp_path / "out").exists()


def test_adalora_is_not_put_on_a_compressed_matrix(tmp_path: Path) -> None:
    folder, kind = save_family("bert", tmp_path / "model"), TaskKind.CLASSIFICATION
    task_model = open_base(COMPRESSED, folder, kind)
    plan = make_plan(open_base("as-is", folder, kind), kind, 2)
    part = made(tmp_path / "other").part
    setting = Setting(task_model, made_data(task_model, kind, NUM_SAMPLES), part, plan, tmp_path)
    with pytest.raises(ConfigError, match="adalora: PEFT puts AdaLoRA on no compressed matrix; leave adalora out"):
        setting.run("adalora", "out")
    assert not (tmp_path / "out").exists()
    assert {name for name in ArmName if why_refused(name, plan, is_compressed=True)} == {ArmName.ADALORA}
    assert not any(why_refused(name, plan, is_compressed=False) for name in ArmName)
