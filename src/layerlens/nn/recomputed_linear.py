"""A linear layer over a quantised tensor of another library: decoded on use, and decoded again in the backward pass."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from layerlens.nn.frozen_product import FrozenMatrix


class RecomputedLinear(nn.Linear, FrozenMatrix):
    """y = x Wᵀ + b, with a frozen `weight` that has a `dequantize` method; an `nn.Linear` to everything that looks at it."""

    @classmethod
    def around(cls, linear: nn.Module) -> RecomputedLinear:
        """The same weight and bias in such a layer."""
        module = cls(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")  # type: ignore[arg-type]
        module.weight, module.bias = linear.weight, linear.bias  # type: ignore[assignment]
        return module.train(linear.training)

    def forward(self, inputs: Float[Tensor, "*axes in_features"]) -> Float[Tensor, "*axes out_features"]:
        outputs = self.product(inputs)
        return outputs if self.bias is None else outputs + self.bias.to(outputs.dtype)

    def multiply(self, inputs: Float[Tensor, "tokens in_features"]) -> Float[Tensor, "tokens out_features"]:
        """x Wᵀ, as the library computes it."""
        return functional.linear(inputs, self.weight).to(inputs.dtype)

    def multiply_back(self, gradient: Float[Tensor, "tokens out_features"]) -> Float[Tensor, "tokens in_features"]:
        """ȳ W."""
        weight: Tensor = self.weight.dequantize()
        return gradient @ weight.to(gradient.dtype)
