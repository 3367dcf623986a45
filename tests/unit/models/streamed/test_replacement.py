"""Replaced matrices are what modules compute with, only for the while, and wherever the module keeps its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from layerlens.errors import UnsupportedModelError
from layerlens.models.streamed.replacement import is_replaceable, is_table, replaced_weights
from layerlens.models.streamed.row_embedding import RowEmbedding
from layerlens.models.streamed.streamed_linear import StreamedLinear
from layerlens.models.streamed.weight_source import WeightSource
from tests.unit.models.streamed.test_streamed_linear import reader_of

IDS = torch.tensor([[1, 4], [0, 1]])


def linear(folder: Path, kind: str) -> nn.Module:
    torch.manual_seed(0)
    stored = torch.randn((3, 5) if "transposed" in kind else (5, 3))
    if kind == "linear":
        return nn.Linear(3, 5)
    if kind == "transposed":
        return Conv1D(5, 3)
    source = WeightSource(reader_of(folder / "w.safetensors", w=stored.bfloat16()), "w")
    if "held" in kind:
        source.hold()
    return StreamedLinear(source, nn.Parameter(torch.randn(5)), is_transposed="transposed" in kind)


@pytest.mark.parametrize("kind", ["linear", "transposed", "streamed", "streamed held", "streamed transposed", "held transposed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_linear_layer_computes_with_another_matrix_for_a_while(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    model = nn.Sequential(linear(tmp_path, kind))
    inputs, values = torch.randn(4, 3), torch.randn(5, 3).to(dtype)
    before, bias = model(inputs), model[0].bias
    assert is_replaceable(model[0])
    with replaced_weights(model, {"0": values}):
        torch.testing.assert_close(model(inputs), inputs @ values.float().T + bias)
        with replaced_weights(model, {"0": torch.zeros(5, 3)}):
            assert torch.equal(model(inputs), bias.expand(4, 5))
        torch.testing.assert_close(model(inputs), inputs @ values.float().T + bias)
    assert torch.equal(model(inputs), before)
    with pytest.raises(RuntimeError, match="stop"), replaced_weights(model, {"0": values}):
        raise RuntimeError("stop")
    assert torch.equal(model(inputs), before)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_table_gives_rows_of_another_for_a_while(tmp_path: Path, is_streamed: bool) -> None:
    own, other = torch.randn(6, 2), torch.randn(6, 2)
    table = (
        RowEmbedding(reader_of(tmp_path / "w.safetensors", w=own), "w", None) if is_streamed else nn.Embedding(6, 2, _weight=own)
    )
    model = nn.Sequential(table)
    assert is_table(table)
    with replaced_weights(model, {"0": other}):
        assert torch.equal(model(IDS), other[IDS])
    assert torch.equal(model(IDS), own[IDS])
    with replaced_weights(model, {"0": other.bfloat16()}):
        assert torch.equal(model(IDS), other.bfloat16().float()[IDS])


def test_a_blank_table_stays_blank(tmp_path: Path) -> None:
    table = RowEmbedding(reader_of(tmp_path / "w.safetensors", w=torch.ones(6, 2)), "w", None)
    table.is_blank = True
    with replaced_weights(nn.Sequential(table), {"0": torch.ones(6, 2)}):
        assert not table(IDS).any()


def test_what_has_no_matrix_or_another_shape_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5))
    assert not is_replaceable(model[1])
    with pytest.raises(UnsupportedModelError, match="1 is a LayerNorm"), replaced_weights(model, {"1": torch.ones(5, 5)}):
        pass
    with (
        pytest.raises(UnsupportedModelError, match=r"the matrix for 0 is \[3, 5\], needed \[5, 3\]"),
        replaced_weights(model, {"0": torch.ones(3, 5)}),
    ):
        pass
