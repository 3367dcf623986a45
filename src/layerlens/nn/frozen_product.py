"""y = x Wᵀ for a frozen W that is decoded on use, with the gradient x̄ = ȳ W from decoding it a second time.

Left to autograd, every decoded slice would stay in memory until the backward pass: the whole dense model, which is what a
stored one is there to avoid. Nothing is kept here, since the gradient of x needs neither x nor y.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from layerlens.models.arithmetic import product_type
from layerlens.nn.uncast_module import UncastModule


class FrozenMatrix(UncastModule):
    """A module that holds a matrix [out_features in_features] which takes no gradient itself; abstract."""

    out_features: int
    in_features: int

    def product(self, inputs: Float[Tensor, "*axes in_features"]) -> Float[Tensor, "*axes out_features"]:
        """x Wᵀ, in the type of the inputs, or in autocast's where that is on; only the inputs get a gradient."""
        flat = inputs.reshape(-1, self.in_features).to(product_type(inputs))
        return not_a_view(_FrozenProduct.apply(flat, self), (*inputs.shape[:-1], self.out_features))

    @abstractmethod
    def multiply(self, inputs: Float[Tensor, "tokens in_features"]) -> Float[Tensor, "tokens out_features"]:
        """x Wᵀ without a gradient."""

    @abstractmethod
    def multiply_back(self, gradient: Float[Tensor, "tokens out_features"]) -> Float[Tensor, "tokens in_features"]:
        """ȳ W, in the type of ȳ; sums over slices of W are in float32 at least."""


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, matrix: FrozenMatrix) -> Tensor:
        ctx.matrix = matrix
        return matrix.multiply(inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.matrix.multiply_back(gradient), None


def not_a_view(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same numbers in another shape, of which autograd does not know that they are another tensor's.

    For what a layer gives: Falcon changes that in place, and a hook on a changed view never sees a gradient.
    """
    shaped: Tensor = torch.ops.aten._unsafe_view(values, shape)
    return shaped


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type that sums over slices are in."""
    return torch.promote_types(dtype, torch.float32)
