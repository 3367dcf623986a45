"""A compressed folder stands for its original: known by the original's hash, and told apart by its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from layerlens.errors import CheckpointError, ManifestError
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.compressed_checkpoint import CompressedCheckpoint, open_base_checkpoint, open_compressed_checkpoint
from layerlens.models.load import load_task_model
from layerlens.words import TaskKind
from tests.unit.adapting.bases import compress_beside, save_family
from tests.unit.adapting.plans import info_of


def test_a_folder_is_known_by_its_originals_hash(tmp_path: Path) -> None:
    source = open_checkpoint(str(save_family("llama", tmp_path / "model")))
    folder = compress_beside(tmp_path / "model")
    checkpoint = open_compressed_checkpoint(folder)
    assert (checkpoint.id, checkpoint.hash(), checkpoint.folder) == (source.id, source.hash(), folder)
    assert checkpoint.stored_hash() != source.hash()
    assert any(name.endswith(".codes") for name in checkpoint.tensors)
    assert isinstance(open_base_checkpoint(str(folder)), CompressedCheckpoint)
    assert type(open_base_checkpoint(source.id)) is type(source)


def test_a_task_model_of_the_folder_is_what_transformers_loads(tmp_path: Path) -> None:
    save_family("llama", tmp_path / "model")
    folder = compress_beside(tmp_path / "model")
    import transformers

    tokens = torch.arange(12).reshape(2, 6) + 5
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    mine = load_task_model(open_compressed_checkpoint(folder), info_of(TaskKind.CAUSAL_LM), seed=0)
    with torch.no_grad():
        assert torch.equal(mine.model(input_ids=tokens).logits, theirs(input_ids=tokens).logits)
    assert mine.is_quantised
    assert mine.new_parameters == ()


def test_other_folders_and_half_ones_are_refused(tmp_path: Path) -> None:
    save_family("llama", tmp_path / "model")
    folder = compress_beside(tmp_path / "model")
    for other in (tmp_path / "model", tmp_path / "nothing"):
        with pytest.raises(CheckpointError, match="was not written by `layerlens compress`"):
            open_compressed_checkpoint(other)
    with pytest.raises(CheckpointError, match="was compressed by LayerLens; give its original"):
        open_checkpoint(str(folder))
    (folder / "plan.json").unlink()
    with pytest.raises(ManifestError, match=r"cannot read .*plan\.json"):
        open_compressed_checkpoint(folder)
    (folder / "model.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError):
        open_compressed_checkpoint(folder)
