"""A compressed folder holds what was chosen, the rest byte for byte, in the planned bytes."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from layerlens.artifacts.formats import HALF, KEEP, integer
from layerlens.compressing.dense import write_dense
from layerlens.compressing.tensor_files import TensorFiles
from layerlens.compressing.write_folder import ChosenMatrix, write_folder
from layerlens.errors import CheckpointError, ConfigError
from layerlens.models.checkpoint import Checkpoint, open_checkpoint
from tests.tiny_models import save_tiny
from tests.unit.compressing.folders import choose, compress, compress_tiny, stored_matrices


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(str(save_tiny("llama", tmp_path / "original")))


def _weights(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "vit"])
def test_the_bytes_of_all_tensors_are_the_planned_ones(family: str, tmp_path: Path) -> None:
    compressed = compress_tiny(family, tmp_path)
    found = sum(tensor.nbytes for tensor in _weights(compressed.folder).values())
    assert found == compressed.size_bytes == compressed.planned_bytes


def test_each_matrix_lies_under_its_own_name_and_the_rest_is_copied(source: Checkpoint, tmp_path: Path) -> None:
    compressed = compress(source, tmp_path / "out")
    before, after = _weights(source.folder), _weights(compressed.folder)
    expected = set(before)
    for matrix in compressed.chosen:
        if matrix.scheme.format.has_codes or matrix.scheme.format.has_factors:
            expected.remove(matrix.tensor)
    assert expected <= after.keys()
    for layer, tensors in stored_matrices(source, compressed.chosen):
        matrix = next(matrix for matrix in compressed.chosen if matrix.layer == layer)
        for name, tensor in tensors.items():
            assert torch.equal(after[f"{matrix.tensor.removesuffix('weight')}{name}"], tensor)
            expected.add(f"{matrix.tensor.removesuffix('weight')}{name}")
    assert after.keys() == expected
    halves = {matrix.tensor for matrix in compressed.chosen if matrix.scheme == HALF}
    for name in before.keys() & after.keys():
        assert torch.equal(after[name], before[name].to(torch.bfloat16) if name in halves else before[name])
        assert after[name].dtype == (torch.bfloat16 if name in halves else before[name].dtype)


def test_shards_hold_the_same_tensors_as_one_file(source: Checkpoint, tmp_path: Path) -> None:
    one = compress(source, tmp_path / "one")
    several = compress(source, tmp_path / "several", shard_bytes=5000)
    assert len(list(several.folder.glob("*.safetensors"))) > 2
    assert several.size_bytes == one.size_bytes
    left, right = _weights(one.folder), _weights(several.folder)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_large_tensor_is_copied_in_pieces(source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerlens.compressing.write_folder._COPY_BYTES", 300)
    compressed = compress(source, tmp_path / "out", [KEEP, HALF])
    before, after = _weights(source.folder), _weights(compressed.folder)
    assert all(torch.equal(after[name], before[name].to(after[name].dtype)) for name in before)


def test_tokenizer_and_settings_come_along_and_further_files_too(source: Checkpoint, tmp_path: Path) -> None:
    modules = [{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}, {"idx": 2, "path": "2_Dense"}, {"idx": 3, "path": "../x"}]
    (source.folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    for name in ("1_Pooling", "2_Dense", "int4.curves", "checkpoint-5"):
        (source.folder / name).mkdir()
        (source.folder / name / "config.json").write_text("{}", encoding="utf-8")
    save_file({"linear.weight": torch.ones(3, 5)}, source.folder / "2_Dense" / "model.safetensors")
    (source.folder / "additional_chat_templates").mkdir()
    (source.folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages }}", encoding="utf-8")
    (source.folder / "training_args.bin").touch()
    compressed = compress(source, tmp_path / "out", files={"plan.json": b"{}"})
    names = {str(path.relative_to(compressed.folder)) for path in compressed.folder.rglob("*") if path.is_file()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "plan.json"}
    assert names >= {"generation_config.json", "modules.json"}
    assert {name for name in names if "/" in name} == {
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "additional_chat_templates/tool_use.jinja",
    }
    assert "training_args.bin" not in names
    assert compressed.size_bytes == compressed.planned_bytes + 3 * 5 * 4
    assert (compressed.folder / "tokenizer.json").read_bytes() == (source.folder / "tokenizer.json").read_bytes()
    config = json.loads((compressed.folder / "config.json").read_text(encoding="utf-8"))
    assert all(config[key] == value for key, value in source.config.items())


def test_an_infinite_number_stays_in_the_config_as_transformers_reads_it(source: Checkpoint, tmp_path: Path) -> None:
    """Mamba-2 and its hybrids are published with `"time_step_limit": [0.0, Infinity]`."""
    limit = [0.0, float("inf")]
    compressed = compress(replace(source, config={**source.config, "time_step_limit": limit}), tmp_path / "out")
    write_dense(compressed.folder, tmp_path / "dense")
    for folder in (compressed.folder, tmp_path / "dense"):
        assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["time_step_limit"] == limit


def test_what_was_said_of_the_original_is_not_said_of_the_copy(source: Checkpoint, tmp_path: Path) -> None:
    for name in ("plan.json", "evaluation.json", "validation.json"):
        (source.folder / name).write_text("{}", encoding="utf-8")
    compressed = compress(source, tmp_path / "out", files={"plan.json": b"[]"})
    assert (compressed.folder / "plan.json").read_bytes() == b"[]"
    write_dense(compressed.folder, tmp_path / "dense")
    names = {path.name for folder in (compressed.folder, tmp_path / "dense") for path in folder.iterdir()}
    assert not {"evaluation.json", "validation.json"} & names
    assert not (tmp_path / "dense" / "plan.json").exists()


def test_a_tied_matrix_that_is_stored_twice_is_written_once(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "original")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    source = open_checkpoint(str(folder))
    for scheme in (integer(4, 32), KEEP):
        table = ChosenMatrix("table", "model.embed_tokens.weight", scheme, 200, 32, copies=("lm_head.weight",))
        out = tmp_path / scheme.name
        write_folder(out, source, [table], stored_matrices(source, [table]))
        assert not any(name.startswith("lm_head") for name in _weights(out))


def test_tensors_that_nobody_loads_are_left_out_whatever_they_hold(source: Checkpoint, tmp_path: Path) -> None:
    tensors = load_file(source.folder / "model.safetensors")
    mask = {"h.0.attn.bias": torch.full((1, 1, 8, 8), -torch.inf)}
    save_file(tensors | mask, source.folder / "model.safetensors", metadata={"format": "pt"})
    masked = open_checkpoint(str(source.folder))
    with pytest.raises(CheckpointError, match=r"h\.0\.attn\.bias"):
        write_folder(tmp_path / "with", masked, [], [])
    write_folder(tmp_path / "without", masked, [], [], unused=mask.keys())
    assert _weights(tmp_path / "without").keys() == tensors.keys()


def test_the_input_is_not_touched(source: Checkpoint, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in source.folder.iterdir()}
    compress(source, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in source.folder.iterdir()} == before


def _damaged(source: Checkpoint, change: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    for number, (layer, tensors) in enumerate(stored_matrices(source, choose(source))):
        yield layer, change(tensors) if number == 1 else tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: {**tensors, "scales": tensors["scales"] * float("nan")}, "scales holds NaN or infinite values"),
        (lambda tensors: {**tensors, "codes": tensors["codes"].t().contiguous().t()}, "codes is not contiguous"),
        (lambda tensors: {"codes": tensors["codes"]}, "scales is missing for int3"),
    ],
    ids=["not finite", "not contiguous", "missing"],
)
def test_bad_tensors_are_refused_by_name_and_leave_nothing(source: Checkpoint, tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        write_folder(tmp_path / "out", source, choose(source), _damaged(source, change))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["original"]


def test_nothing_is_left_or_replaced_where_the_bytes_are_not_the_plans(tmp_path: Path) -> None:
    compressed = compress_tiny("llama", tmp_path)
    before = _weights(compressed.folder)
    checkpoint = compressed.source
    chosen = choose(checkpoint)
    for out in (tmp_path / "out", compressed.folder):
        with pytest.raises(AssertionError, match=r"bytes of tensors where the plan says 1$"):
            write_folder(out, checkpoint, chosen, stored_matrices(checkpoint, chosen), size_bytes=1, may_replace=lambda: None)
    assert not (tmp_path / "out").exists()
    assert _weights(compressed.folder).keys() == before.keys()


def test_matrices_that_never_come_are_named(source: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tensors came for"):
        write_folder(tmp_path / "out", source, choose(source), [])
    assert [path.name for path in tmp_path.iterdir()] == ["original"]


def test_a_copied_tensor_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "original")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"NaN or infinite weights in model\.norm\.weight"):
        compress(open_checkpoint(str(folder)), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["original"]


def test_a_full_disk_leaves_nothing_behind(source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: TensorFiles, name: str, values: memoryview, start_byte: int = 0) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(TensorFiles, "write", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        compress(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["original"]


def test_the_checkpoint_itself_is_no_place_for_the_output(source: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="is the folder that is read"):
        compress(source, source.folder)


def test_a_plan_of_another_model_is_refused(source: Checkpoint, tmp_path: Path) -> None:
    first = choose(source)[0]
    with pytest.raises(ConfigError, match=r"has no tensor other\.weight"):
        write_folder(tmp_path / "out", source, [replace(first, tensor="other.weight")], [])
    with pytest.raises(ConfigError, match=r"is \[200, 32\], the plan has a weight \[7, 32\]"):
        write_folder(tmp_path / "out", source, [replace(first, out_features=7)], [])
