"""An embedding table that stays on disk: only the rows that are asked for are read."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from layerlens.models.streamed.tensor_reader import TensorReader
from layerlens.nn.row_scale import PLAIN, RowScale


class RowEmbedding(nn.Module):
    """A frozen `nn.Embedding` over a tensor of a checkpoint.

    Args:
        reader: Reads the rows.
        name: Name of the table in the checkpoint, [num_embeddings, embedding_dim].
        padding_idx: As the table's own.
        scale: What the table multiplies its rows by.
    """

    def __init__(self, reader: TensorReader, name: str, padding_idx: int | None, scale: RowScale = PLAIN) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = reader.header(name).shape
        self.padding_idx, self.scale, self._reader, self._name = padding_idx, scale, reader, name
        #: In a blank table every row is zero and nothing is read: for passes that want masks and positions alone.
        self.is_blank = False
        #: A whole table to take rows from instead of the file's; `replaced_weights` sets it.
        self.values: Tensor | None = None

    def forward(self, input_ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape embedding_dim"]:
        if self.is_blank:
            return torch.zeros(1, device=input_ids.device).expand(*input_ids.shape, self.embedding_dim)
        if self.values is not None:
            return self.scale.times(functional.embedding(input_ids, self.values).float())
        rows, position = torch.unique(input_ids, return_inverse=True)
        values = self._reader.gather(self._name, rows.tolist()).float().to(input_ids.device)
        return self.scale.times(values)[position]
