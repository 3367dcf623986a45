"""Adapter folders that cannot be used are refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from layerlens.adapting.attach import attached
from layerlens.adapting.load import is_adapter, load_adapter, open_adapter
from layerlens.adapting.save import base_model_id, save_adapter
from layerlens.errors import ManifestError
from layerlens.words import TaskKind
from tests.unit.adapting.plans import make_plan, tiny_task_model


def saved(folder: Path) -> Path:
    task_model = tiny_task_model("bert", folder / "base", TaskKind.CLASSIFICATION)
    plan = make_plan(task_model, TaskKind.CLASSIFICATION, 2)
    with attached(task_model.model, plan, seed=0) as adapted:
        save_adapter(folder / "adapter", adapted, plan, task_model)
    return folder / "adapter"


def test_a_saved_adapter_names_its_base_and_replaces_an_older_one_whole(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    first = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "stale").touch()
    assert saved(tmp_path) == folder
    assert not (folder / "stale").exists()
    assert (folder / "adapter_model.safetensors").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert is_adapter(folder)
    assert not is_adapter(tmp_path / "base")
    assert open_adapter(folder).base_model == str(tmp_path / "base")


def test_a_hub_id_stays_an_id_and_a_relative_folder_becomes_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    task_model = tiny_task_model("bert", tmp_path / "base", TaskKind.CLASSIFICATION)
    monkeypatch.chdir(tmp_path)
    hub = replace(task_model, checkpoint=replace(task_model.checkpoint, id="owner/name"))
    relative = replace(task_model, checkpoint=replace(task_model.checkpoint, id="base"))
    assert base_model_id(hub) == "owner/name"
    assert base_model_id(relative) == str(tmp_path / "base")


def test_folders_that_are_no_safe_adapter_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no readable adapter_config\.json"):
        open_adapter(tmp_path)
    folder = saved(tmp_path)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(ManifestError, match=r"names no base model.*; .*pickled adapters are not loaded"):
        open_adapter(folder)


def test_an_adapter_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    # Written by PEFT itself it would not tell its base's hash, which is looked at first.
    weights = folder / "adapter_model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt"})
    wider = tiny_task_model("bert", tmp_path / "wider", TaskKind.CLASSIFICATION, intermediate_size=128)
    with pytest.raises(ManifestError, match=r"does not fit .* as BertForSequenceClassification") as error:
        load_adapter(open_adapter(folder), wider)
    assert "\n" not in str(error.value)
