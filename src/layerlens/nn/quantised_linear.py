"""A linear layer whose weight is integer codes: y = x (scale · code)ᵀ + b."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerlens.artifacts.formats import Scheme
from layerlens.nn.stored_module import StoredModule


class QuantisedLinear(StoredModule):
    """Decodes a slice of rows at a time; 8 and 4 bits have kernels for few input rows in bfloat16 on a CPU.

    Args:
        scheme: An integer scheme.
        out_features: Outputs.
        in_features: Inputs.
        bias: As the original has it.
        device: Where the empty buffers are made.
    """

    def __init__(
        self,
        scheme: Scheme,
        out_features: int,
        in_features: int,
        bias: nn.Parameter | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(scheme, out_features, in_features, device)
        self.bias = bias

    def forward(self, inputs: Float[Tensor, "*axes in_features"]) -> Float[Tensor, "*axes out_features"]:
        outputs = self.product(inputs)
        return outputs if self.bias is None else outputs + self.bias.to(outputs.dtype)
