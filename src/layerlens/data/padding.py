"""Lists of different lengths as one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from layerlens.data.example import Batch, Example

IGNORED_LABEL = -100
"""Positions with this label enter no loss; Hugging Face models use the same number."""


def pad_lists(rows: Sequence[Sequence[int]], filler: int, length: int) -> Int[Tensor, "batch tokens"]:
    """Pad lists of ints on the right to `length`."""
    return torch.tensor([[*row, *[filler] * (length - len(row))] for row in rows], dtype=torch.long)


def pad_tokens(examples: Sequence[Example], pad_token_id: int, length: int) -> Batch:
    """Stack `input_ids`, `attention_mask` and, where there are any, `token_type_ids`, each `[batch length]`."""
    fillers = {"input_ids": pad_token_id, "attention_mask": 0, "token_type_ids": 0}
    there = [name for name in fillers if name in examples[0]]
    return {name: pad_lists([example[name] for example in examples], fillers[name], length) for name in there}


def padded_length(examples: Sequence[Example], multiple_of: int = 1, at_most: int | None = None) -> int:
    """Tokens of the longest example, rounded up to a multiple within `at_most`; not rounded where no such limit is known."""
    return padded_on(max(len(example["input_ids"]) for example in examples), multiple_of, at_most)


def padded_on(num_tokens: int, multiple_of: int, at_most: int | None) -> int:
    """`num_tokens` rounded up to a multiple within `at_most`; not rounded where no such limit is known."""
    return max(num_tokens, min(-(-num_tokens // multiple_of) * multiple_of, at_most or 0))
