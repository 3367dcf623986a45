"""Lists of different lengths as one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from layerlens.data.example import Batch, Example

IGNORED_LABEL = -100
"""Positions with this label enter no loss; Hugging Face models use the same number."""


def pad_lists(rows: Sequence[Sequence[int]], filler: int) -> Int[Tensor, "batch tokens"]:
    """Pad lists of ints on the right to the longest."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows], dtype=torch.long)


def pad_tokens(examples: Sequence[Example], pad_token_id: int) -> Batch:
    """Stack `input_ids`, `attention_mask` and, where there are any, `token_type_ids`."""
    fillers = {"input_ids": pad_token_id, "attention_mask": 0, "token_type_ids": 0}
    return {name: pad_lists([row[name] for row in examples], filler) for name, filler in fillers.items() if name in examples[0]}
