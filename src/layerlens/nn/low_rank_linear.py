"""A linear layer whose weight is two factors: y = (x downᵀ) up + b, with up stored as [rank out_features]."""

from __future__ import annotations

from layerlens.nn.coded_linear import CodedLinear


class LowRankLinear(CodedLinear):
    """Never forms the matrix itself; factors in bfloat16 are used as they are, as codes they are decoded on use.

    Args:
        scheme: A low-rank scheme; the rest is as `CodedLinear` has it.
    """
