"""The standard form of integer plans: by its published layout, and through the package itself where that is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from layerlens.artifacts.formats import HALF, KEEP, Scheme, integer, low_rank
from layerlens.compressing.compressed_tensors import packed_words, write_compressed_tensors
from layerlens.compressing.stored_matrix import restored
from layerlens.compressing.write_folder import write_folder
from layerlens.errors import UnsupportedModelError
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.foreign import quiet
from tests.tiny_models import save_tiny
from tests.unit.compressing.folders import Compressed, choose, compress_tiny, stored_matrices

SCHEMES = [integer(4, 32), integer(8, 32), integer(8, 64), HALF, KEEP]


def _compressed(family: str, folder: Path, schemes: list[Scheme]) -> Compressed:
    """A folder whose tables are kept."""
    source = open_checkpoint(str(save_tiny(family, folder / "original")))
    chosen = [matrix for matrix in choose(source, schemes) if "embed" not in matrix.tensor and "wte" not in matrix.tensor]
    written = write_folder(folder / "compressed", source, chosen, stored_matrices(source, chosen))
    return Compressed(source, folder / "compressed", chosen, written)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("features", [1, 7, 32, 45])
def test_codes_lie_in_words_from_the_lowest_bits_on(bits: int, features: int) -> None:
    half = 1 << (bits - 1)
    codes = torch.randint(-half, half, (3, features), dtype=torch.int8, generator=torch.Generator().manual_seed(features))
    words = packed_words(codes, bits)
    assert words.shape == (3, -(-features * bits // 32))
    for row in range(3):
        number = sum((int(word) & 0xFFFFFFFF) << (32 * place) for place, word in enumerate(words[row]))
        assert number == sum((int(code) + half) << (bits * place) for place, code in enumerate(codes[row]))


@pytest.mark.parametrize("family", ["llama", "vit"])
def test_each_matrix_is_decoded_from_its_words_scales_and_shape(family: str, tmp_path: Path) -> None:
    compressed = _compressed(family, tmp_path, SCHEMES)
    written = write_compressed_tensors(compressed.folder, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert written == sum(tensor.nbytes for tensor in tensors.values())
    by_layer = {matrix.layer: matrix for matrix in compressed.chosen}
    for layer, stored in stored_matrices(compressed.source, compressed.chosen):
        matrix = by_layer[layer]
        rows, columns = tensors.pop(f"{matrix.path}.weight_shape").tolist()
        words, scales = tensors.pop(f"{matrix.path}.weight_packed"), tensors.pop(f"{matrix.path}.weight_scale")
        bits = matrix.scheme.bits
        shifts = torch.arange(0, 32, bits)
        codes = ((words.long().unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).view(rows, -1)[:, :columns] - (1 << (bits - 1))
        decoded = codes * scales.float().repeat_interleave(matrix.scheme.group_size, dim=1)[:, :columns]
        assert torch.equal(decoded, restored(matrix.scheme, stored, rows, columns))
    before = load_file(compressed.folder / "model.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert "transformers_weights" not in config
    groups = config["quantization_config"]["config_groups"].values()
    assert {group["weights"]["num_bits"] for group in groups} == {4, 8}
    # A row that is one group has one scale, which the format calls a channel's.
    assert {(group["weights"]["strategy"], group["weights"]["group_size"] is None) for group in groups} == {
        ("channel", True),
        ("group", False),
    }


@pytest.mark.parametrize("family", ["llama", "bert", "vit", "gpt_neo"])
def test_the_package_itself_loads_it_to_the_same_outputs(family: str, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors", reason="the package compressed-tensors is not installed")
    compressed = _compressed(family, tmp_path, SCHEMES)
    write_compressed_tensors(compressed.folder, tmp_path / "out")
    inputs = {"input_ids": torch.arange(5, 25).view(2, 10)} if family != "vit" else {"pixel_values": torch.ones(1, 3, 16, 16)}
    with quiet(), torch.no_grad():
        models = [transformers.AutoModel.from_pretrained(folder) for folder in (compressed.folder, tmp_path / "out")]
        left, right = (model(**inputs)[0] for model in models)
    torch.testing.assert_close(right, left, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "scheme", "fault"),
    [
        ("llama", low_rank(16, 8, 32), r"down_proj is lr16x8, needed int8, int4"),
        ("llama", integer(3, 32), r"down_proj is int3, needed int8, int4"),
        ("llama", integer(4, 24), r"down_proj has 64 inputs, needed whole groups of 24"),
        ("gpt2", integer(4, 32), r"c_attn is of kind Conv1D, needed a Linear"),
    ],
    ids=["factors", "three bits", "groups", "Conv1D"],
)
def test_what_the_format_cannot_say_is_refused_by_name(family: str, scheme: Scheme, fault: str, tmp_path: Path) -> None:
    compressed = _compressed(family, tmp_path, [scheme])
    with pytest.raises(UnsupportedModelError, match=f"cannot say how .* is stored: .*{fault}.* and [0-9]+ more") as caught:
        write_compressed_tensors(compressed.folder, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_tables_are_refused(tmp_path: Path) -> None:
    compressed = compress_tiny("llama", tmp_path, [integer(4, 32), *[KEEP] * 99])
    with pytest.raises(UnsupportedModelError, match=r"embed_tokens is of kind Embedding, needed a Linear"):
        write_compressed_tensors(compressed.folder, tmp_path / "out")
