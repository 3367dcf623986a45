"""A layer over another library's quantised tensor computes what that library does, and keeps nothing for the backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layerlens.nn.recomputed_linear import RecomputedLinear

pytest.importorskip("torchao", reason="torchao is not installed")


def test_outputs_and_gradients_are_those_of_the_decoded_matrix_and_no_matrix_is_kept() -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    linear = nn.Sequential(nn.Linear(40, 24))
    quantize_(linear, Int8WeightOnlyConfig())
    layer = RecomputedLinear.around(linear[0])
    decoded = layer.weight.dequantize().double()  # type: ignore[operator]
    inputs, outer = torch.randn(2, 5, 40, requires_grad=True), torch.randn(2, 5, 24)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor):
        outputs = layer(inputs)
        assert kept == []
        linear(inputs)
        assert 24 * 40 in kept, "torchao's own layer keeps its matrix; if it no longer does, this layer is not needed"
    outputs.backward(outer)
    assert inputs.grad is not None
    torch.testing.assert_close(outputs.double(), inputs.double() @ decoded.t() + layer.bias.double(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(inputs.grad.double(), outer.double() @ decoded, rtol=1e-4, atol=1e-5)
    assert (layer.out_features, layer.in_features, layer.training) == (24, 40, True)
