"""What the linear layers over a stored matrix share: y = x Wᵀ + b, with W decoded on use."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerlens.artifacts.formats import Scheme
from layerlens.nn.stored_module import StoredModule


class CodedLinear(StoredModule):
    """A linear layer whose weight is codes, factors or both; abstract.

    Args:
        scheme: How the matrix is stored.
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
