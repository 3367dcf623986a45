"""A small low-rank update that is put beside a layer for a few steps and taken away again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LowRankProbe(nn.Module):
    """y + scaling · up(down(x)): starts as the identity change, since `up` is zero.

    Source: Hu et al. (2021), arXiv 2106.09685, section 4.1.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, *, scaling: float, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(in_features)
        self.down = nn.Parameter(torch.empty(rank, in_features).uniform_(-bound, bound, generator=generator))
        self.up = nn.Parameter(torch.zeros(out_features, rank))
        self.scaling = scaling

    def forward(self, inputs: Float[Tensor, "*axes in_features"]) -> Float[Tensor, "*axes out_features"]:
        """The update alone, to be added to the layer's output."""
        return (inputs @ self.down.t()) @ self.up.t() * self.scaling

    @contextmanager
    def beside(self, module: nn.Module) -> Iterator[None]:
        """Add the update to every output of `module` until the block ends."""

        def add(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return output + self(args[0])

        handle = module.register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()
