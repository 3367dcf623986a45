"""Modules that read the matrix of another one: an output embedding tied to the word embedding, or the other way round.

The holder is no submodule of theirs, so the matrix is saved once, under the holder's name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from layerlens.nn.half_modules import HalfModule
from layerlens.nn.row_scale import PLAIN, RowScale
from layerlens.nn.stored_module import StoredModule

Holder = StoredModule | HalfModule


class TiedLinear(nn.Module):
    """y = x Wᵀ + b with the W of another module.

    Args:
        holder: Module that has the matrix.
        bias: As the original has it.
    """

    def __init__(self, holder: Holder, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        # In a tuple it is not registered as a submodule.
        self._holder = (holder,)
        self.out_features, self.in_features = holder.out_features, holder.in_features
        self.bias = bias

    @property
    def weight(self) -> Float[Tensor, "out_features in_features"]:
        """The holder's matrix in float32."""
        return self._holder[0].rows(slice(None), torch.float32)

    def forward(self, inputs: Float[Tensor, "*axes in_features"]) -> Float[Tensor, "*axes out_features"]:
        holder = self._holder[0]
        outputs = holder.product(inputs.to(_device_of(holder))).to(inputs.device)
        return outputs if self.bias is None else outputs + self.bias.to(outputs.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class TiedEmbedding(nn.Module):
    """A table whose rows are those of another module's matrix.

    Args:
        holder: Module that has the matrix.
        padding_idx: As the original has it.
        dtype: Type of the rows it gives; follows the model when that is cast.
        scale: What its rows are multiplied by on their way out.
    """

    def __init__(
        self, holder: Holder, padding_idx: int | None = None, dtype: torch.dtype = torch.float32, scale: RowScale = PLAIN
    ) -> None:
        super().__init__()
        self._holder = (holder,)
        self.num_embeddings, self.embedding_dim, self.padding_idx = holder.out_features, holder.in_features, padding_idx
        self.dtype, self.scale = dtype, scale

    @property
    def weight(self) -> Float[Tensor, "num_embeddings embedding_dim"]:
        """The holder's matrix in float32."""
        return self._holder[0].rows(slice(None), torch.float32)

    def forward(self, input_ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape embedding_dim"]:
        numbers, position = torch.unique(input_ids, return_inverse=True)
        holder = self._holder[0]
        rows = holder.rows(numbers.long().to(_device_of(holder)), self.dtype).to(input_ids.device)
        return self.scale.times(rows)[position]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return super()._apply(fn, recurse)


def _device_of(holder: Holder) -> torch.device:
    """Where the matrix lies: another device than its reader's where a model is spread over several."""
    return next(iter((*holder.buffers(), *holder.parameters()))).device
