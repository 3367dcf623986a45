"""Bytes of a folder's tensors against the tensors themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from layerlens.errors import CheckpointError
from layerlens.evaluation.folder_size import bits_per_weight, tensor_bytes


def test_all_tensors_of_all_files_count_and_nothing_else(tmp_path: Path) -> None:
    first = {"codes": torch.zeros(3, 5, dtype=torch.uint8), "scales": torch.zeros(3, 1, dtype=torch.bfloat16)}
    second = {"norm": torch.zeros(7), "ids": torch.zeros(2, dtype=torch.int64)}
    save_file(first, tmp_path / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    save_file(second, tmp_path / "model-00002-of-00002.safetensors")
    (tmp_path / "notes.txt").write_text("not a tensor")
    assert tensor_bytes(tmp_path) == sum(tensor.nbytes for tensor in (first | second).values()) == 65
    assert bits_per_weight(65, 104) == 5.0


def test_a_folder_without_safetensors_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no safetensors file"):
        tensor_bytes(tmp_path)
