"""Bytes of a folder's tensors against the tensors themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from layerlens.errors import CheckpointError
from layerlens.evaluation.folder_size import bits_per_weight, folder_bytes
from layerlens.models.checkpoint import open_checkpoint

FIRST = {"codes": torch.zeros(3, 5, dtype=torch.uint8), "scales": torch.zeros(3, 1, dtype=torch.bfloat16)}
SECOND = {"norm": torch.zeros(7), "ids": torch.zeros(2, dtype=torch.int64)}


def test_the_checkpoints_own_files_count_and_no_others_beside_them(tmp_path: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name, tensors in zip(names, (FIRST, SECOND), strict=True):
        save_file(tensors, tmp_path / name, metadata={"format": "pt"})
    index = {name: file for file, tensors in zip(names, (FIRST, SECOND), strict=True) for name in tensors}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    # The same weights once more, as some publish them for another program.
    shutil.copyfile(tmp_path / names[1], tmp_path / "consolidated.safetensors")
    assert folder_bytes(tmp_path, open_checkpoint(str(tmp_path)).tensors) == 65
    assert sum(tensor.nbytes for tensor in (FIRST | SECOND).values()) == 65
    assert bits_per_weight(65, 104) == 5.0


def test_modules_behind_a_sentence_encoder_count(tmp_path: Path) -> None:
    save_file(FIRST, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "2_Dense").mkdir()
    save_file({"linear.weight": torch.zeros(4, 5)}, tmp_path / "2_Dense" / "model.safetensors")
    (tmp_path / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "2_Dense"}]))
    assert folder_bytes(tmp_path, open_checkpoint(str(tmp_path)).tensors) == 15 + 6 + 80


def test_a_module_without_safetensors_is_told_and_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense" / "pytorch_model.bin").write_bytes(b"a pickle")
    kinds = {"1_Pooling": "Pooling", "2_Dense": "Dense"}
    entries = [{"path": name, "type": f"sentence_transformers.models.{kind}"} for name, kind in kinds.items()]
    (tmp_path / "modules.json").write_text(json.dumps([{"path": ""}, *entries]))
    with pytest.raises(CheckpointError, match=r"2_Dense has no safetensors, .* would lack its Dense; save it anew"):
        folder_bytes(tmp_path, {})
