"""Tokens that are not all zero, among many that may be."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

#: Columns that are looked at first.
_PROBED_COLUMNS = 4


def has_value(values: Float[Tensor, "samples tokens features"]) -> Bool[Tensor, "samples tokens"]:
    """Which tokens are not all zero; reads few columns of those that show it there."""
    found = (values[..., :_PROBED_COLUMNS] != 0).any(dim=-1)
    unclear = ~found
    if bool(unclear.any()):
        found[unclear] = (values[unclear] != 0).any(dim=-1)
    return found


def few_with_value(values: Float[Tensor, "samples tokens features"]) -> Int[Tensor, "samples kept"] | None:
    """Tokens that are not all zero, where these are at most half of every sample; None otherwise."""
    num_tokens = values.shape[1]
    if num_tokens < 2:
        return None
    found = has_value(values)
    kept = max(1, int(found.sum(dim=1).max().item()))
    if kept * 2 > num_tokens:
        return None
    return found.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :kept]


def at_tokens(
    values: Float[Tensor, "samples tokens features"], positions: Int[Tensor, "samples kept"]
) -> Float[Tensor, "samples kept features"]:
    """The values at some tokens of each sample."""
    return values.gather(1, positions[..., None].expand(-1, -1, values.shape[2]))
