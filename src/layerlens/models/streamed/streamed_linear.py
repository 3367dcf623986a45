"""A frozen linear layer whose weight is streamed: the same numbers as `Linear` and `Conv1D` over the weight in float32.

Under autocast in bfloat16, as theirs are there; products with slices of the weight are then rounded and summed in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerlens.linalg.fast_products import fast_products
from layerlens.models.arithmetic import product_type
from layerlens.models.streamed.weight_source import WeightSource
from layerlens.nn.frozen_product import not_a_view, wide


class StreamedLinear(nn.Module):
    """y = x Wᵀ + b with a frozen W from a source; gradients flow to x alone.

    Args:
        source: The weight as stored.
        bias: Bias in memory, or None.
        is_transposed: The stored matrix is [in_features, out_features], as GPT-2's `Conv1D` has it.
    """

    def __init__(self, source: WeightSource, bias: nn.Parameter | None, *, is_transposed: bool) -> None:
        super().__init__()
        self.source, self.is_transposed = source, is_transposed
        self.bias = bias
        self.out_features, self.in_features = reversed(source.shape) if is_transposed else source.shape
        #: Whether backward also spends the product that a trainable weight's gradient takes; for the time model.
        self.times_weight_gradient = False

    def forward(self, inputs: Float[Tensor, "*batch in_features"]) -> Float[Tensor, "*batch out_features"]:
        flat = inputs.reshape(-1, self.in_features).to(product_type(inputs))
        return not_a_view(_Streamed.apply(flat, self), (*inputs.shape[:-1], self.out_features))

    def weight_matrix(self) -> Float[Tensor, "out_features in_features"]:
        """The whole weight in the type it is stored in; a view where it is transposed."""
        weight = self.source.read()
        return weight.T if self.is_transposed else weight

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class _Streamed(torch.autograd.Function):
    """Products with W slice by slice; keeps no copy of W between forward and backward."""

    @staticmethod
    @fast_products()
    def forward(ctx: Any, inputs: Tensor, layer: StreamedLinear) -> Tensor:
        ctx.layer = layer
        if layer.times_weight_gradient:
            ctx.save_for_backward(inputs)
        bias = None if layer.bias is None else layer.bias.to(inputs.dtype)
        return (_times if layer.is_transposed else _times_transposed)(inputs, layer.source, bias)

    @staticmethod
    @fast_products()
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        layer: StreamedLinear = ctx.layer
        gradient = gradients[0]
        if layer.times_weight_gradient:
            _spend_weight_gradient(gradient, ctx.saved_tensors[0])
        return (_times_transposed if layer.is_transposed else _times)(gradient, layer.source, None), None


def _times(
    values: Float[Tensor, "tokens rows"], source: WeightSource, bias: Float[Tensor, " columns"] | None
) -> Float[Tensor, "tokens columns"]:
    """Values times the matrix as it is stored, in their type; summed over slices in float32."""
    total = values.new_empty(0)
    for rows, weight in source.slices(values.dtype):
        if len(weight) == source.shape[0]:
            return values @ weight if bias is None else torch.addmm(bias, values, weight)
        if rows.start == 0:
            total = values.new_zeros(len(values), source.shape[1], dtype=wide(values.dtype))
            if bias is not None:
                total += bias
        if values.dtype == total.dtype:
            total.addmm_(values[:, rows], weight)
        else:
            total += values[:, rows] @ weight
    return total.to(values.dtype)


def _times_transposed(
    values: Float[Tensor, "tokens columns"], source: WeightSource, bias: Float[Tensor, " rows"] | None
) -> Float[Tensor, "tokens rows"]:
    """Values times the transposed matrix, in their type."""
    output = values.new_empty(0)
    for rows, weight in source.slices(values.dtype):
        part = values @ weight.t() if bias is None else torch.addmm(bias[rows], values, weight.t())
        if len(weight) == source.shape[0]:
            return part
        if rows.start == 0:
            output = values.new_empty(len(values), source.shape[0])
        output[:, rows] = part
    return output


def _spend_weight_gradient(gradient: Float[Tensor, "rows out_features"], inputs: Float[Tensor, "rows in_features"]) -> None:
    """Compute the weight's gradient in slices that are let go at once: its time is wanted, not its value."""
    step = max(1, (16 << 20) // (4 * inputs.shape[1]))
    scratch = inputs.new_empty(min(step, gradient.shape[1]), inputs.shape[1])
    for start in range(0, gradient.shape[1], step):
        part = gradient[:, start : start + step]
        torch.mm(part.t(), inputs, out=scratch[: part.shape[1]])
