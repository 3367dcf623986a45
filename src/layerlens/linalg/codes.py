"""Symmetric integer codes with one scale for each group of neighbouring features: w ≈ scale · code."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import BFloat16, Float32, Int8
from torch import Tensor


@dataclass(frozen=True)
class Codes:
    """A matrix [rows features] as codes −2^(bits−1) … 2^(bits−1) − 1 and scales.

    Attributes:
        values: Padded to whole groups; codes beyond `features` are 0.
        scales: Of each group; a negative one lends the extra code to the positive end.
        bits: Width of a code.
        group_size: Features that share a scale.
        features: Columns of the matrix itself.
    """

    values: Int8[Tensor, "rows padded"]
    scales: BFloat16[Tensor, "rows groups"]
    bits: int
    group_size: int
    features: int


def dequantise(codes: Codes) -> Float32[Tensor, "rows features"]:
    """The matrix that codes stand for: scale · code, exact in float32."""
    rows, groups = codes.scales.shape
    grouped = codes.values.to(torch.float32).view(rows, groups, codes.group_size)
    return grouped.mul_(codes.scales.float().unsqueeze(-1)).view(rows, -1)[:, : codes.features]
