"""e A eᵀ of each row e of an error, tr(B E A Eᵀ), and how far two errors differ in them, without anything larger than the matrix.

A difference takes one product, f A fᵀ − s A sᵀ = (f − s) A (f + s)ᵀ, and keeps its digits where the two are close.

Products are in the error's type (float32 for less) over 1,024 features at a time; what these give is summed in float64.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

_ROWS_AT_ONCE = 256
_FEATURES_AT_ONCE = 1024


def row_forms(error: Float[Tensor, "rows features"], gram: Float[Tensor, "features features"]) -> Float64[Tensor, " rows"]:
    """e A eᵀ of every row e."""
    forms = torch.empty(len(error), dtype=torch.float64, device=error.device)
    for start in range(0, len(error), _ROWS_AT_ONCE):
        rows = error[start : start + _ROWS_AT_ONCE]
        forms[start : start + _ROWS_AT_ONCE] = (_product(rows, gram) * rows).sum(1)
    return forms


def trace_form(
    error: Float[Tensor, "rows features"],
    gram: Float[Tensor, "features features"],
    row_gram: Float[Tensor, "rows rows"] | Float[Tensor, " rows"] | None = None,
) -> float:
    """tr(B E A Eᵀ) with B full, a diagonal, or the identity if None."""
    if row_gram is None:
        return row_forms(error, gram).sum().item()
    if row_gram.dim() == 1:
        return row_forms(error, gram).dot(row_gram.double()).item()
    total = 0.0
    for start in range(0, len(error), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        # (B E) ∘ (E A), a block of rows of each: neither product is ever whole.
        total += (_product(row_gram[rows], error) * _product(error[rows], gram)).sum().item()
    return total


def row_form_differences(
    first: Float[Tensor, "rows features"], second: Float[Tensor, "rows features"], gram: Float[Tensor, "features features"]
) -> Float64[Tensor, " rows"]:
    """f A fᵀ − s A sᵀ of every row f of one error and s of the other; A symmetric."""
    differences = torch.empty(len(first), dtype=torch.float64, device=first.device)
    for start in range(0, len(first), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        seen = _product(first[rows] - second[rows], gram)
        differences[rows] = (seen * (first[rows] + second[rows])).sum(1)
    return differences


def trace_form_difference(
    first: Float[Tensor, "rows features"],
    second: Float[Tensor, "rows features"],
    gram: Float[Tensor, "features features"],
    row_gram: Float[Tensor, "rows rows"],
) -> float:
    """tr(B F A Fᵀ) − tr(B S A Sᵀ), A and B symmetric."""
    total, apart, both = 0.0, first - second, first + second
    for start in range(0, len(first), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        seen = _product(row_gram[rows], both)
        total += (seen * _product(apart[rows], gram)).sum().item()
    return total


def _product(left: Float[Tensor, "rows inner"], right: Float[Tensor, "inner columns"]) -> Float64[Tensor, "rows columns"]:
    dtype = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
    total = torch.zeros(len(left), right.shape[1], dtype=torch.float64, device=left.device)
    for start in range(0, len(right), _FEATURES_AT_ONCE):
        features = slice(start, start + _FEATURES_AT_ONCE)
        total += left[:, features].to(dtype) @ right[features].to(dtype)
    return total
