"""How often each outcome is drawn, against how often it should be."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def largest_z(drawn: Int[Tensor, " draws"], shares: Float[Tensor, " classes"]) -> float:
    """Largest deviation of a class's count from its expectation, in standard deviations."""
    num = len(drawn)
    counts = torch.bincount(drawn, minlength=len(shares)).double()
    shares = shares.double()
    return float(((counts - num * shares) / (num * shares * (1 - shares)).sqrt()).abs().max())
