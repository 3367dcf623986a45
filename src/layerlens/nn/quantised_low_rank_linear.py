"""A linear layer of codes and a low-rank correction: y = x (scale · code)ᵀ + (x downᵀ) up + b."""

from __future__ import annotations

from layerlens.nn.coded_linear import CodedLinear


class QuantisedLowRankLinear(CodedLinear):
    """The sum of what `QuantisedLinear` and `LowRankLinear` compute.

    Args:
        scheme: An integer scheme with factors; the rest is as `CodedLinear` has it.
    """
