"""The canonical weight of a layer is the one for which `y = x @ weight.T + bias`."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from layerlens.artifacts.formats import integer
from layerlens.errors import UnsupportedModelError
from layerlens.models.weights import is_adaptable_module, is_planned_module, is_transposed, layer_features, weight_matrix
from layerlens.nn.half_modules import HalfLinear
from layerlens.nn.quantised_embedding import QuantisedEmbedding
from layerlens.nn.quantised_linear import QuantisedLinear


@pytest.mark.parametrize("module", [nn.Linear(3, 5), Conv1D(5, 3)], ids=["Linear", "Conv1D"])
def test_the_canonical_weight_computes_what_the_module_computes(module: nn.Module) -> None:
    nn.init.normal_(module.bias)  # type: ignore[arg-type]
    x = torch.randn(7, 3)
    assert torch.allclose(x @ weight_matrix(module).T + module.bias, module(x), atol=1e-6)
    assert layer_features(module) == (5, 3)
    assert is_planned_module(module)


@pytest.mark.parametrize("module", [nn.Linear(3, 5), Conv1D(5, 3)], ids=["Linear", "Conv1D"])
def test_writing_to_the_canonical_weight_changes_the_module(module: nn.Module) -> None:
    with torch.no_grad():
        weight_matrix(module).zero_()
    assert not module.weight.any()  # type: ignore[operator]


def test_only_conv1d_is_transposed() -> None:
    assert is_transposed(Conv1D(5, 3))
    assert not is_transposed(nn.Linear(3, 5))


def test_a_subclass_of_linear_counts() -> None:
    class Own(nn.Linear):
        pass

    assert is_planned_module(Own(2, 2))


@pytest.mark.parametrize("module", [nn.Embedding(3, 2), nn.LayerNorm(3), nn.Conv1d(2, 2, 1), nn.Bilinear(2, 2, 2)])
def test_other_modules_have_no_canonical_weight(module: nn.Module) -> None:
    assert not is_planned_module(module)
    with pytest.raises(UnsupportedModelError, match=type(module).__name__):
        weight_matrix(module)


def test_layers_of_a_compressed_folder_can_be_adapted_but_have_no_weight_to_plan_by() -> None:
    stored = QuantisedLinear(integer(4, 32), 5, 3)
    for module in (stored, HalfLinear(5, 3, is_transposed=True)):
        assert is_adaptable_module(module)
        assert not is_planned_module(module)
        assert layer_features(module) == (5, 3)
    table = QuantisedEmbedding(integer(4, 32), 5, 3)
    assert not is_adaptable_module(table)
    with pytest.raises(UnsupportedModelError, match="QuantisedEmbedding has no features"):
        layer_features(table)


def test_a_projection_that_is_read_but_never_called_is_not_planned() -> None:
    attention = nn.MultiheadAttention(4, 2)
    called = []
    attention.out_proj.register_forward_hook(lambda *_: called.append(True))
    attention(*[torch.randn(3, 1, 4)] * 3)
    assert called == []
    assert not is_planned_module(attention.out_proj)
