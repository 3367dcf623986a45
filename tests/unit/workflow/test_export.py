"""Exported folders are ordinary ones: they hold the matrices that the compressed folder stands for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from layerlens.compressing import tensor_files
from layerlens.errors import CheckpointError, ConfigError, UnsupportedModelError
from layerlens.workflow.export import export
from tests.unit.compressing.folders import Compressed, compress_tiny
from tests.unit.workflow.compressions import digest, tensor_bytes


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    return compress_tiny("llama", tmp_path_factory.mktemp("llama"))


def test_a_dense_export_is_an_ordinary_checkpoint_beside_its_source(llama: Compressed) -> None:
    before = digest(llama.folder)
    result = export(str(llama.folder), dense=True)
    assert result.folder == llama.folder.with_name("compressed-dense")
    assert result.size_bytes == tensor_bytes(result.folder)
    config, original = (json.loads((folder / "config.json").read_text()) for folder in (result.folder, llama.source.folder))
    assert config == original
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (result.folder, llama.source.folder))
    assert {name: (values.shape, values.dtype) for name, values in mine.items()} == {
        name: (values.shape, values.dtype) for name, values in theirs.items()
    }
    assert torch.equal(mine["model.norm.weight"], theirs["model.norm.weight"])
    assert (result.folder / "tokenizer.json").exists()
    assert digest(llama.folder) == before
    with pytest.raises(ConfigError, match="already holds files"):
        export(str(llama.folder), dense=True)


def test_a_relative_folder_is_exported_beside_itself(llama: Compressed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "inside").symlink_to(llama.folder)
    monkeypatch.chdir(tmp_path / "inside")
    assert export(".", tmp_path / "dense", dense=True).folder == tmp_path / "dense"
    monkeypatch.chdir(llama.folder)
    (llama.folder.parent / "compressed-dense").rename(tmp_path / "moved")
    result = export(".", dense=True)
    assert result.folder == llama.folder.parent / "compressed-dense"
    assert digest(result.folder) == digest(tmp_path / "moved")


@pytest.mark.parametrize("is_said", [False, True])
def test_one_form_has_to_be_said(llama: Compressed, is_said: bool) -> None:
    with pytest.raises(ConfigError, match=r"--dense .* or --compressed-tensors; one of them"):
        export(str(llama.folder), dense=is_said, compressed_tensors=is_said)


def test_only_compressed_folders_are_exported(llama: Compressed, tmp_path: Path) -> None:
    for source in (llama.source.folder, tmp_path, tmp_path / "nothing"):
        with pytest.raises(CheckpointError, match="was not written by `layerlens compress`"):
            export(str(source), tmp_path / "out", dense=True)
    with pytest.raises(ConfigError, match="is the folder that is read"):
        export(str(llama.folder), llama.folder, dense=True)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_that_the_standard_format_cannot_say_is_refused_and_leaves_nothing(llama: Compressed, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"compressed-tensors cannot say how .* is int3, needed int8"):
        export(str(llama.folder), tmp_path / "out", compressed_tensors=True)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(llama: Compressed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_files.TensorFiles, "write", no_space)
    with pytest.raises(ConfigError, match="No space left on device; make room"):
        export(str(llama.folder), tmp_path / "out", dense=True)
    assert list(tmp_path.iterdir()) == []
