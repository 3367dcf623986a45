"""Small matrices with correlated inputs and outputs, and exhaustive searches to judge roundings by."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def weight(rows: int, features: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, features, generator=torch.Generator().manual_seed(seed)) * 0.02


def gram(features: int, *, samples: int = 0, seed: int = 1) -> Tensor:
    """A Gram of samples with decaying, mixed directions; singular where there are fewer samples than features."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(features, features, generator=generator) * torch.logspace(0, -1.5, features)
    rows = torch.randn(samples or 4 * features, features, generator=generator) @ mixing
    return rows.t() @ rows / len(rows)


def loss(error: Tensor, input_gram: Tensor, output_gram: Tensor | None = None) -> float:
    """½ tr(B E A Eᵀ) as it is written, in float64."""
    error, input_gram = error.double(), input_gram.double()
    seen = error @ input_gram @ error.t()
    return 0.5 * (seen if output_gram is None else output_gram.double() @ seen).trace().item()


def least_row_loss(row: Tensor, scale: float, bits: int, input_gram: Tensor) -> float:
    """Least e A eᵀ / 2 of one row over all its codes."""
    codes = range(-(1 << (bits - 1)), 1 << (bits - 1))
    candidates = torch.tensor(list(itertools.product(codes, repeat=len(row))), dtype=torch.float64) * scale
    errors = candidates - row.double()
    return 0.5 * ((errors @ input_gram.double()) * errors).sum(1).min().item()
