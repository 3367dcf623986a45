"""An embedding table in stored form: only the rows that are looked up are decoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerlens.artifacts.formats import Scheme
from layerlens.nn.row_scale import PLAIN, RowScale
from layerlens.nn.stored_module import StoredModule


class QuantisedEmbedding(StoredModule):
    """A table [out_features in_features] of codes, of factors or of both.

    Args:
        scheme: How it is stored.
        num_embeddings: Rows.
        embedding_dim: Columns.
        padding_idx: As the original has it; it only matters to training.
        dtype: Type of the rows it gives; follows the model when that is cast.
        device: Where the empty buffers are made.
        scale: What its rows are multiplied by on their way out.
    """

    def __init__(
        self,
        scheme: Scheme,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        scale: RowScale = PLAIN,
    ) -> None:
        super().__init__(scheme, num_embeddings, embedding_dim, device)
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.dtype, self.scale = dtype, scale

    def forward(self, input_ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape embedding_dim"]:
        numbers, position = torch.unique(input_ids, return_inverse=True)
        return self.scale.times(self.rows(numbers.long(), self.dtype))[position]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return super()._apply(fn, recurse)
