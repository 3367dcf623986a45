"""The ordinary checkpoint of a compressed folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from layerlens.artifacts.formats import HALF, KEEP, Format
from layerlens.compressing.dense import write_dense
from layerlens.compressing.stored_matrix import restored
from layerlens.errors import CheckpointError, ConfigError
from tests.unit.compressing.folders import compress, compress_tiny, stored_matrices


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_tensor_of_the_original_is_there_with_the_restored_values(family: str, tmp_path: Path) -> None:
    compressed = compress_tiny(family, tmp_path)
    written = write_dense(compressed.folder, tmp_path / "dense")
    before = load_file(compressed.source.folder / "model.safetensors")
    after = load_file(tmp_path / "dense" / "model.safetensors")
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in after.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in before.items()
    }
    assert written == sum(tensor.nbytes for tensor in before.values())
    expected = dict(before)
    by_layer = {matrix.layer: matrix for matrix in compressed.chosen}
    for layer, tensors in stored_matrices(compressed.source, compressed.chosen):
        matrix = by_layer[layer]
        values = restored(matrix.scheme, tensors, matrix.out_features, matrix.in_features)
        expected[matrix.tensor] = values.t() if matrix.is_transposed else values
    for matrix in compressed.chosen:
        if matrix.scheme == HALF:
            expected[matrix.tensor] = before[matrix.tensor].to(torch.bfloat16).float()
    assert all(torch.equal(after[name], expected[name]) for name in before)
    assert {matrix.scheme.format for matrix in compressed.chosen} == set(Format)


def test_a_type_that_is_given_holds_for_all_and_is_named_in_the_config(tmp_path: Path) -> None:
    compressed = compress_tiny("llama", tmp_path)
    write_dense(compressed.folder, tmp_path / "dense", torch.float16)
    assert {tensor.dtype for tensor in load_file(tmp_path / "dense" / "model.safetensors").values()} == {torch.float16}
    config = json.loads((tmp_path / "dense" / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "float16"
    assert not {"quantization_config", "transformers_weights"} & config.keys()
    assert (tmp_path / "dense" / "tokenizer.json").exists()


def test_shards_are_read_and_written(tmp_path: Path) -> None:
    compressed = compress_tiny("llama", tmp_path)
    many = compress(compressed.source, tmp_path / "many", shard_bytes=5000)
    write_dense(compressed.folder, tmp_path / "one")
    write_dense(many.folder, tmp_path / "dense", shard_bytes=20000)
    shards = sorted((tmp_path / "dense").glob("*.safetensors"))
    found = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    expected = load_file(tmp_path / "one" / "model.safetensors")
    assert len(shards) > 1
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_only_a_compressed_folder_is_taken_and_never_written_over(tmp_path: Path) -> None:
    compressed = compress_tiny("llama", tmp_path, [KEEP])
    with pytest.raises(CheckpointError, match="was not compressed by LayerLens"):
        write_dense(compressed.source.folder, tmp_path / "dense")
    with pytest.raises(CheckpointError, match=r"cannot read .*config\.json"):
        write_dense(tmp_path / "nothing", tmp_path / "dense")
    with pytest.raises(ConfigError, match="is the folder that is read"):
        write_dense(compressed.folder, compressed.folder)


def test_a_folder_that_lacks_a_tensor_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    compressed = compress_tiny("llama", tmp_path)
    path = compressed.folder / "config.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"model.layers.0.mlp.up_proj"', '"model.other"'), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"lacks model\.other\."):
        write_dense(compressed.folder, tmp_path / "dense")
    assert not (tmp_path / "dense").exists()
