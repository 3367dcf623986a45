"""A linear layer whose weight is integer codes: y = x (scale · code)ᵀ + b."""

from __future__ import annotations

from layerlens.nn.coded_linear import CodedLinear


class QuantisedLinear(CodedLinear):
    """Decodes a slice of rows at a time; few input rows in bfloat16 on a CPU go to torch's products of 8- and 4-bit codes.

    Args:
        scheme: An integer scheme; the rest is as `CodedLinear` has it.
    """
