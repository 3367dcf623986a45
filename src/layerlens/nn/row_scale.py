"""What an embedding table multiplies its rows by before it gives them out: √hidden in Gemma and in BART's decoders.

A stored table holds the matrix of the checkpoint, without the factor, since a tied head computes with that very matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

#: How transformers calls its tables that multiply.
_SCALED = "ScaledWordEmbedding"


@dataclass(frozen=True)
class RowScale:
    """A factor of all rows.

    Attributes:
        value: The factor.
        is_rounded: It is rounded to the type of the rows first, as Gemma does.
    """

    value: float = 1.0
    is_rounded: bool = False

    def times(self, rows: Float[Tensor, "*shape features"]) -> Float[Tensor, "*shape features"]:
        """The rows, scaled; themselves where the factor is 1."""
        if self.value == 1.0:
            return rows
        return rows * (torch.tensor(self.value).to(rows.dtype) if self.is_rounded else self.value)


#: Of a table that gives its rows out as they are.
PLAIN = RowScale()


def row_scale(table: nn.Module) -> RowScale | None:
    """The factor of a table's rows; None of a module that is no table, or that does more than scale its rows."""
    if isinstance(own := getattr(table, "scale", None), RowScale):
        return own
    if type(table) is nn.Embedding:
        return PLAIN
    # One with a parameter of its own beside the matrix (T5Gemma 2) puts other rows in the place of some.
    is_scaled = isinstance(table, nn.Embedding) and type(table).__name__.endswith(_SCALED) and len(list(table.parameters())) == 1
    if not is_scaled:
        return None
    # The number; beside it Gemma has a buffer, which holds nothing before the weights are loaded.
    rounded = getattr(table, "scalar_embed_scale", None)
    value = getattr(table, "embed_scale", None) if rounded is None else rounded
    return RowScale(float(value), rounded is not None) if isinstance(value, int | float) else None
