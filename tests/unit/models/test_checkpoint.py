"""A checkpoint is looked at, never loaded; every fault is one line."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from layerlens.errors import CheckpointError
from layerlens.models.checkpoint import open_checkpoint
from tests.tiny_models import save_tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny("bert", tmp_path / "bert")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A checkpoint of at least three shards."""
    model = AutoModel.from_pretrained(save_tiny("llama", tmp_path / "whole"))
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) >= 3
    return tmp_path / "sharded"


def fault_of(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit_index(folder: Path, **changes: Any) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= changes
    path.write_text(json.dumps(index))


def test_the_demo_model_opens_with_the_headers_that_safetensors_reads(minilm: Path) -> None:
    checkpoint = open_checkpoint(str(minilm))
    assert checkpoint.config["model_type"] == "bert"
    assert checkpoint.files == (minilm / "model.safetensors",)
    with safe_open(checkpoint.files[0], framework="pt") as oracle:
        expected = {name: tuple(oracle.get_slice(name).get_shape()) for name in oracle.keys()}  # noqa: SIM118
    assert {name: header.shape for name, header in checkpoint.tensors.items()} == expected


def test_a_sharded_checkpoint_opens_with_the_tensors_of_all_shards(sharded: Path) -> None:
    checkpoint = open_checkpoint(str(sharded))
    expected = {name: tuple(tensor.shape) for file in checkpoint.files for name, tensor in load_file(file).items()}
    assert {name: header.shape for name, header in checkpoint.tensors.items()} == expected
    assert len(checkpoint.files) == len(list(sharded.glob("*.safetensors")))


def test_the_hash_depends_on_every_byte_and_not_on_the_place(folder: Path, tmp_path: Path) -> None:
    original = open_checkpoint(str(folder)).hash()
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    assert open_checkpoint(str(copy)).hash() == original
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert open_checkpoint(str(copy)).hash() != original
    shutil.copy(folder / "model.safetensors", copy)
    assert open_checkpoint(str(copy)).hash() == original
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert open_checkpoint(str(copy)).hash() != original


def test_the_hash_sees_the_last_shard(sharded: Path) -> None:
    original = open_checkpoint(str(sharded)).hash()
    last = sorted(sharded.glob("model-*.safetensors"))[-1]
    weights = bytearray(last.read_bytes())
    weights[-1] ^= 1
    last.write_bytes(weights)
    assert open_checkpoint(str(sharded)).hash() != original


def test_a_tilde_is_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert open_checkpoint("~/bert").folder == folder


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "absent") in fault_of(tmp_path / "absent")


def test_an_empty_name_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="empty name"):
        open_checkpoint(" ")


def test_a_file_in_place_of_a_folder_is_an_error(folder: Path) -> None:
    assert "is a file, not a model folder" in fault_of(folder / "model.safetensors")


def test_a_folder_without_a_config_is_an_error(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "has no config.json" in fault_of(folder)


@pytest.mark.parametrize(("text", "reason"), [("", "empty or no JSON"), ("{", "empty or no JSON"), ("{}", "no model_type")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_an_empty_or_damaged_config_is_an_error(folder: Path, text: str, reason: str, encoding: str) -> None:
    (folder / "config.json").write_text(text, encoding=encoding)
    fault = fault_of(folder)
    assert "config.json" in fault
    assert (reason if encoding == "utf-8" else "empty or no JSON") in fault


@pytest.mark.parametrize("config", [[], {"model_type": ""}, {"model_type": 3}, {"hidden_size": 32}])
def test_a_config_without_an_architecture_is_an_error(folder: Path, config: object) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    assert "names no model_type" in fault_of(folder)


def test_a_config_that_points_at_other_weights_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "adapter_model.bin"}))
    assert "adapter_model.bin" in fault_of(folder)


def test_an_adapter_folder_is_told_apart_from_a_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    assert "PEFT adapter" in fault_of(folder)


def test_weights_cut_short_are_an_error(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    fault = fault_of(folder)
    assert str(path) in fault
    assert "cut short" in fault


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "the pickle ran"))


def test_a_pickle_is_never_loaded_and_the_message_says_how_to_convert(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "trap")))
    fault = fault_of(folder)
    assert not (tmp_path / "trap").exists()
    assert "pytorch_model.bin" in fault
    assert "save_pretrained" in fault
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert (tmp_path / "trap").exists()


def test_a_folder_without_weights_is_an_error(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has neither model.safetensors nor model.safetensors.index.json" in fault_of(folder)


def test_a_file_without_tensors_is_an_error(folder: Path) -> None:
    save_file({}, folder / "model.safetensors")
    assert "without a single tensor" in fault_of(folder)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.unlink()
    fault = fault_of(sharded)
    assert shard.name in fault
    assert "not there" in fault
    assert "another model" not in fault


def test_a_shard_of_another_model_is_named_with_the_tensors_it_lacks(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    lost = sorted(load_file(shard))
    save_file({"other.weight": torch.zeros(2)}, shard)
    fault = fault_of(sharded)
    assert shard.name in fault
    assert lost[0] in fault
    assert f"lacks {len(lost)} tensors" in fault


def test_a_tensor_in_another_shard_than_the_index_says_is_a_fault(sharded: Path) -> None:
    first, second = sorted(sharded.glob("model-*.safetensors"))[:2]
    moved = sorted(load_file(first))[0]
    edit_index(sharded, **{moved: second.name})
    fault = fault_of(sharded)
    assert moved in fault
    assert second.name in fault


@pytest.mark.parametrize("place", ["../secret.safetensors", "/etc/passwd", "sub/model.safetensors"])
def test_an_index_never_leads_out_of_its_folder(sharded: Path, place: str) -> None:
    edit_index(sharded, **{"model.norm.weight": place})
    assert "outside its folder" in fault_of(sharded)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1, "b": "c"}}'])
def test_a_damaged_index_is_an_error(sharded: Path, text: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    assert "cannot read" in fault_of(sharded)


def test_all_faults_are_told_at_once(sharded: Path) -> None:
    first, second, *_ = sorted(sharded.glob("model-*.safetensors"))
    first.write_bytes(first.read_bytes()[:-1])
    second.unlink()
    (sharded / "config.json").write_text("{}")
    faults = fault_of(sharded).split("; ")
    for part in (first.name, second.name, "no model_type"):
        assert any(part in fault for fault in faults)
