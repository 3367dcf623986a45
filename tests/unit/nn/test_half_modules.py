"""A matrix in bfloat16 inside a model of another type."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from layerlens.nn import half_modules
from layerlens.nn.half_modules import HalfEmbedding, HalfLinear


def _weight() -> Tensor:
    return torch.randn(24, 40, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_a_layer_is_the_linear_layer_of_its_matrix_in_either_orientation(
    dtype: torch.dtype, is_transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half_modules, "SLICE_NUMBERS", 5 * 40)
    weight, bias = _weight(), nn.Parameter(torch.randn(24, dtype=dtype))
    layer = HalfLinear(24, 40, bias, is_transposed=is_transposed)
    layer.load_state_dict({"weight": weight.t() if is_transposed else weight, "bias": bias})
    inputs = torch.randn(2, 3, 40, dtype=dtype)
    expected = nn.functional.linear(inputs, weight.to(dtype), bias)
    torch.testing.assert_close(layer(inputs), expected, rtol=2 * torch.finfo(dtype).eps, atol=64 * torch.finfo(dtype).eps)
    torch.testing.assert_close(layer.rows(slice(2, 9), torch.float32), weight[2:9].float())


def test_a_cast_leaves_the_matrix_as_it_is_stored() -> None:
    layer = HalfLinear(24, 40, nn.Parameter(torch.zeros(24)))
    layer.load_state_dict({"weight": _weight(), "bias": torch.zeros(24)})
    layer.double()
    assert layer.bias is not None
    assert layer.bias.dtype == torch.float64
    assert torch.equal(layer.state_dict()["weight"], _weight())


def test_a_table_gives_rows_in_the_type_of_the_model() -> None:
    table = HalfEmbedding(24, 40)
    table.load_state_dict({"weight": _weight()})
    ids = torch.tensor([[3, 0], [23, 3]])
    assert torch.equal(table(ids), nn.functional.embedding(ids, _weight().float()))
    assert nn.Sequential(table).to(torch.bfloat16)(ids).dtype == torch.bfloat16
