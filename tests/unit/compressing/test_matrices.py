"""Which matrices are compressed, and bytes that add up to the files'."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from layerlens.compressing import matrices as matrices_file
from layerlens.compressing.matrices import Place, checkpoint_size, matrices_of, read_matrix, unused_tensors, unused_told
from layerlens.errors import CheckpointError
from layerlens.models.checkpoint import open_checkpoint
from layerlens.words import Role, TaskKind
from tests.tiny_models import FAMILIES
from tests.unit.compressing.calibrations import Calibrated, calibrated


@pytest.fixture
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables and heads of tiny models count as large."""
    monkeypatch.setattr(matrices_file, "LARGE", 1000)


def tensor_bytes(case: Calibrated) -> dict[str, int]:
    """Bytes of every tensor of the files, by safetensors itself."""
    return {name: value.nbytes for file in case.checkpoint.files for name, value in load_file(file).items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_and_the_rest_are_the_files_to_the_byte(tmp_path: Path, small_counts: None, family: str) -> None:
    case = calibrated(tmp_path, family, num_samples=2)
    matrices = matrices_of(case.streamed())
    sizes = tensor_bytes(case)
    assert len({matrix.tensor for matrix in matrices}) == len(matrices)
    assert all(sizes[matrix.tensor] == matrix.num_bytes for matrix in matrices)
    size = checkpoint_size(case.streamed(), matrices)
    assert size.size_bytes == sum(sizes.values())
    assert size.other_bytes == sum(value for name, value in sizes.items() if name not in {m.tensor for m in matrices})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_matrix_is_read_as_the_model_computes_with_it(tmp_path: Path, small_counts: None, family: str) -> None:
    case = calibrated(tmp_path, family, num_samples=2)
    streamed, model = case.streamed(), case.in_memory().float()
    matrices = matrices_of(streamed)
    assert {matrix.layer for matrix in matrices} >= {spec.layer for spec in streamed.layout.layers}
    for matrix in matrices:
        weight = model.get_submodule(matrix.layer).weight
        values = read_matrix(streamed, matrix)
        assert values.is_contiguous()
        assert values.shape == (matrix.out_features, matrix.in_features)
        assert torch.equal(values, weight.T if matrix.is_transposed else weight)


def test_a_tied_pair_is_one_matrix_and_an_untied_head_one_of_its_own(tmp_path: Path, small_counts: None) -> None:
    tied = matrices_of(calibrated(tmp_path / "a", "llama", num_samples=2).streamed())
    assert [(m.layer, m.place, m.role, m.tied) for m in tied if m.block is None] == [
        ("model.embed_tokens", Place.TIED, Role.EMBEDDING, ("lm_head",))
    ]
    untied = matrices_of(calibrated(tmp_path / "b", "llama", num_samples=2, tie_word_embeddings=False).streamed())
    assert [(m.layer, m.place, m.role) for m in untied if m.block is None] == [
        ("model.embed_tokens", Place.TABLE, Role.EMBEDDING),
        ("lm_head", Place.HEAD, Role.HEAD),
    ]


def test_a_tied_matrix_that_is_stored_twice_counts_once(tmp_path: Path, small_counts: None) -> None:
    case = calibrated(tmp_path, "llama", num_samples=2)
    once = checkpoint_size(case.streamed(), matrices_of(case.streamed()))
    file = case.checkpoint.files[0]
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, file, {"format": "pt"})
    case.checkpoint = open_checkpoint(case.checkpoint.id)
    matrices = matrices_of(case.streamed())
    assert matrices[0].copies == ("lm_head.weight",)
    twice = checkpoint_size(case.streamed(), matrices)
    assert twice.num_parameters == once.num_parameters
    assert twice.other_bytes == once.other_bytes
    assert twice.size_bytes == once.size_bytes + matrices[0].num_bytes


def test_small_tables_position_tables_and_new_heads_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = calibrated(tmp_path / "a", "bert", num_samples=2).streamed()
    assert all(matrix.place is Place.BLOCK for matrix in matrices_of(small))
    monkeypatch.setattr(matrices_file, "LARGE", 1)
    found = {matrix.layer for matrix in matrices_of(calibrated(tmp_path / "b", "bert", num_samples=2).streamed())}
    assert {"bert.embeddings.word_embeddings", "bert.pooler.dense"} <= found
    assert not found & {"bert.embeddings.position_embeddings", "bert.embeddings.token_type_embeddings", "classifier"}


def test_a_pooler_is_told_from_a_head(tmp_path: Path, small_counts: None) -> None:
    case = calibrated(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=2)
    assert [m.role for m in matrices_of(case.streamed()) if m.place is Place.HEAD] == [Role.POOLER]


def test_infinite_weights_are_refused_by_name(tmp_path: Path) -> None:
    case = calibrated(tmp_path, "gpt2", num_samples=2)
    file = case.checkpoint.files[0]
    tensors = load_file(file)
    tensors["transformer.h.1.mlp.c_fc.weight"][3, 4] = torch.inf
    save_file(tensors, file, {"format": "pt"})
    model = case.streamed()
    matrix = next(matrix for matrix in matrices_of(model) if matrix.layer.endswith("h.1.mlp.c_fc"))
    with pytest.raises(CheckpointError, match=r"NaN or infinite weights in transformer\.h\.1\.mlp\.c_fc\.weight"):
        read_matrix(model, matrix)


def test_masks_that_transformers_never_loads_are_no_parameters(tmp_path: Path, small_counts: None) -> None:
    case = calibrated(tmp_path, "gpt2", num_samples=2)
    clean = case.streamed()
    before = checkpoint_size(clean, matrices_of(clean))
    assert unused_tensors(clean) == frozenset()
    assert unused_told(clean) == []
    path = case.checkpoint.files[0]
    tensors = load_file(path)
    prefix = next(name for name in tensors if name.endswith("attn.c_attn.bias")).removesuffix("c_attn.bias")
    masks = {f"{prefix}bias": torch.full((1, 1, 64, 64), -torch.inf), f"{prefix}masked_bias": torch.tensor(-1e4)}
    save_file(tensors | masks, path, metadata={"format": "pt"})
    streamed = replace(case, checkpoint=open_checkpoint(str(case.checkpoint.folder))).streamed()
    assert unused_tensors(streamed) >= {f"{prefix}bias"}
    (told,) = unused_told(streamed)
    assert f"{prefix}bias" in told
    after = checkpoint_size(streamed, matrices_of(streamed))
    assert after.num_parameters - before.num_parameters <= 1
    assert after.other_bytes - before.other_bytes <= 4
    assert after.size_bytes == before.size_bytes + 64 * 64 * 4 + 4
