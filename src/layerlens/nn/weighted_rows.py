"""y = x W for an input or two: rows of W, weighted and added up by torch's embedding bag, whose sums are in float32.

With so few inputs the bag takes half of a matrix product's time, and oneDNN makes no code for the shape. Codes need no decoding:
every group of outputs is a bag of its own, whose weights are the inputs times that group's scales,

    y[g] = Σ_r (x[r] · scale[r, g]) · code[r, g]

so that the matrix is gone through once less.

Function: `torch.nn.functional.embedding_bag`.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import BFloat16, Int8, Int32
from torch import Tensor
from torch.nn import functional

#: With more inputs a matrix product is faster.
MOST_INPUTS = 2


def is_for_bags(inputs: Tensor) -> bool:
    """Whether a product of these inputs [tokens rows] is sooner had here."""
    return len(inputs) <= MOST_INPUTS and inputs.dtype == torch.bfloat16 and inputs.device.type == "cpu"


def weighted_rows(
    inputs: BFloat16[Tensor, "tokens rows"], matrix: BFloat16[Tensor, "rows features"]
) -> BFloat16[Tensor, "tokens features"]:
    """x W."""
    return functional.embedding_bag(_bags(len(inputs), len(matrix), 1), matrix, mode="sum", per_sample_weights=inputs)


def weighted_code_rows(
    inputs: BFloat16[Tensor, "tokens rows"],
    codes: Int8[Tensor, "rows padded"],
    scales: BFloat16[Tensor, "rows groups"],
) -> BFloat16[Tensor, "tokens padded"]:
    """x W for W of codes and their scales."""
    rows, groups = scales.shape
    weights = (inputs.unsqueeze(1) * scales.t()).reshape(-1, rows)
    values = codes.to(torch.bfloat16).view(rows * groups, -1)
    sums = functional.embedding_bag(_bags(len(inputs), rows, groups), values, mode="sum", per_sample_weights=weights)
    return sums.view(len(inputs), -1)


@lru_cache(maxsize=16)
def _bags(tokens: int, rows: int, groups: int) -> Int32[Tensor, "bags rows"]:
    """The numbers of each bag's vectors [group_size], which lie as [rows groups]; the same bags for every token."""
    # It outlives a caller's inference mode, whose tensors could not be used outside it.
    with torch.inference_mode(False):
        row, group = torch.arange(rows, dtype=torch.int32), torch.arange(groups, dtype=torch.int32)
        return (row * groups + group.unsqueeze(1)).repeat(tokens, 1)
