"""Streamed layers against torch's own over the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from layerlens.errors import CheckpointError
from layerlens.models.headers import read_headers
from layerlens.models.streamed import weight_source
from layerlens.models.streamed.row_embedding import RowEmbedding
from layerlens.models.streamed.streamed_linear import StreamedLinear
from layerlens.models.streamed.tensor_reader import TensorReader
from layerlens.models.streamed.weight_source import WeightSource


def reader_of(path: Path, **tensors: torch.Tensor) -> TensorReader:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return TensorReader(read_headers(path))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("holds", [False, True])
def test_outputs_and_gradients_are_those_of_the_layer_it_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, is_transposed: bool, has_bias: bool, holds: bool
) -> None:
    monkeypatch.setattr(weight_source, "SLICE_BYTES", 4 * 7 * 12)  # slices of a few rows
    torch.manual_seed(0)
    stored = torch.randn((12, 20) if is_transposed else (20, 12)).to(dtype)
    oracle: nn.Module = Conv1D(20, 12) if is_transposed else nn.Linear(12, 20, bias=has_bias)
    bias = nn.Parameter(torch.randn(20)) if has_bias else None
    with torch.no_grad():
        oracle.weight.copy_(stored.float())
        if isinstance(oracle.bias, nn.Parameter):
            oracle.bias.copy_(bias if bias is not None else torch.zeros(20))
    layer = StreamedLinear(WeightSource(reader_of(tmp_path / "w.safetensors", w=stored), "w"), bias, is_transposed=is_transposed)
    if holds:
        layer.source.hold()
    mine, theirs = (torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    weights = torch.randn(3, 5, 20)
    (layer(mine) * weights).sum().backward()
    (oracle(theirs) * weights).sum().backward()
    torch.testing.assert_close(layer(mine), oracle(theirs), rtol=1e-5, atol=1e-5)
    assert mine.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-5)
    assert (layer.out_features, layer.in_features) == (20, 12)
    assert torch.equal(layer.weight_matrix(), stored.T if is_transposed else stored)


def test_an_output_may_be_changed_in_place(tmp_path: Path) -> None:
    """As Falcon adds its attention to what its MLP gives, in every layout where the two run side by side."""
    stored = torch.randn(20, 12, generator=torch.Generator().manual_seed(0))
    layer = StreamedLinear(WeightSource(reader_of(tmp_path / "w.safetensors", w=stored), "w"), None, is_transposed=False)
    mine, theirs = (torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    found, expected = layer(mine), nn.functional.linear(theirs, stored)
    seen: list[torch.Tensor] = []
    for output, inputs in ((found, mine), (expected, theirs)):
        # A profile takes the layer's gradient by a hook that is there before the change.
        output.register_hook(seen.append)
        output += inputs.sum(-1, keepdim=True)
        output.square().sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*seen, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stored_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("holds", [False, True])
def test_under_autocast_it_rounds_as_the_layer_it_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored_type: torch.dtype, is_transposed: bool, holds: bool
) -> None:
    monkeypatch.setattr(weight_source, "SLICE_BYTES", 4 * 7 * 12)
    torch.manual_seed(0)
    stored = torch.randn((12, 20) if is_transposed else (20, 12)).to(stored_type)
    bias = nn.Parameter(torch.randn(20))
    oracle: nn.Module = Conv1D(20, 12) if is_transposed else nn.Linear(12, 20)
    with torch.no_grad():
        oracle.weight.copy_(stored.float())
        oracle.bias.copy_(bias)
    layer = StreamedLinear(WeightSource(reader_of(tmp_path / "w.safetensors", w=stored), "w"), bias, is_transposed=is_transposed)
    if holds:
        layer.source.hold()
    mine, theirs = (torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    weights = torch.randn(3, 5, 20).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = layer(mine), oracle(theirs)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert found.dtype == expected.dtype == torch.bfloat16
    # One rounding to bfloat16 apart: theirs may sum in another order before it.
    torch.testing.assert_close(found, expected, rtol=2.0**-7, atol=2.0**-6)
    assert mine.grad is not None
    assert theirs.grad is not None
    assert mine.grad.dtype == torch.float32
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=2.0**-7, atol=2.0**-6)


def test_a_released_weight_is_read_again(tmp_path: Path) -> None:
    source = WeightSource(reader_of(tmp_path / "w.safetensors", w=torch.ones(4, 3)), "w")
    source.hold()
    assert source.is_held
    source.release()
    assert not source.is_held
    assert torch.equal(source.read(), torch.ones(4, 3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(tmp_path: Path, bad: float) -> None:
    weight = torch.ones(4, 3)
    weight[2, 1] = bad
    source = WeightSource(reader_of(tmp_path / "w.safetensors", w=weight), "w")
    with pytest.raises(CheckpointError, match="NaN or infinite weights in w"):
        source.hold()
    with pytest.raises(CheckpointError, match="NaN or infinite weights in w"):
        list(source.slices())


def test_only_the_rows_that_are_asked_for_come_from_a_table(tmp_path: Path) -> None:
    table = torch.randn(50, 6)
    rows = RowEmbedding(reader_of(tmp_path / "w.safetensors", w=table), "w", padding_idx=0)
    ids = torch.tensor([[3, 49, 3], [0, 7, 7]])
    assert torch.equal(rows(ids), table[ids])
    rows.is_blank = True
    assert torch.equal(rows(ids), torch.zeros(2, 3, 6))


def test_a_file_that_becomes_shorter_is_told(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    reader = reader_of(path, w=torch.ones(1000, 10))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="has become shorter"):
        reader.read("w")


def test_rows_and_scalars_are_read_as_they_are_stored(tmp_path: Path) -> None:
    matrix, scalar = torch.arange(12.0).view(4, 3).to(torch.bfloat16), torch.tensor(3.5)
    reader = reader_of(tmp_path / "w.safetensors", matrix=matrix, scalar=scalar)
    assert torch.equal(reader.read("matrix", 1, 3), matrix[1:3])
    assert torch.equal(reader.read("scalar"), scalar)
    assert torch.equal(reader.gather("matrix", [3, 0]), matrix[[3, 0]])
    assert reader.num_bytes("matrix") == 24
    reader.close()
    assert torch.equal(reader.read("matrix"), matrix)
