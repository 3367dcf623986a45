"""Cholesky factors and triangular solves of large matrices, next to all of whose work is matrix products.

A = L Lᵀ, a column of blocks at a time:   L_jj = chol(A_jj − Σ_{i<j} L_ji L_jiᵀ),   L_kj = (A_kj − Σ_{i<j} L_ki L_jiᵀ) L_jj⁻ᵀ
X = M L⁻ᵀ, a block of columns at a time:  X_j = (M_j − Σ_{i<j} X_i L_jiᵀ) L_jj⁻ᵀ

The same sums in another order than LAPACK's, so errors are as small (Higham, Accuracy and Stability of Numerical Algorithms,
2002, chapters 8 and 10); and products may go to the faster library (`fast_products`), which LAPACK's own do not.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_BLOCK = 128


def cholesky_(matrix: Float[Tensor, "features features"]) -> bool:
    """Replace the lower triangle of a symmetric positive definite matrix by its factor L, and the upper one by zeros.

    Returns:
        Whether it was positive definite to the digits of its type; if not, the matrix is spoilt.
    """
    size = len(matrix)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        before, own = slice(0, start), slice(start, stop)
        # Of this column of blocks, what lies on the diagonal and below.
        column = matrix[start:, own]
        if start:
            column.addmm_(matrix[start:, before], matrix[own, before].t(), alpha=-1.0)
        factor, info = torch.linalg.cholesky_ex(matrix[own, own])
        if info.item() != 0:
            return False
        matrix[own, own] = factor
        matrix[own, stop:] = 0.0
        if stop < size:
            matrix[stop:, own] = matrix[stop:, own] @ _inverse(factor).t()
    return True


def solve_(factor: Float[Tensor, "features features"], matrix: Float[Tensor, "rows features"]) -> None:
    """matrix ← matrix L⁻ᵀ in the matrix's own memory.

    Args:
        factor: L, lower triangular.
        matrix: Contiguous, or a transposed view.
    """
    for start in range(0, len(factor), _BLOCK):
        own = slice(start, start + _BLOCK)
        columns = matrix[:, own]
        if start:
            columns.addmm_(matrix[:, :start], factor[own, :start].t(), alpha=-1.0)
        columns.copy_(columns @ _inverse(factor[own, own]).t())


def _inverse(factor: Float[Tensor, "rows rows"]) -> Float[Tensor, "rows rows"]:
    """L_jj⁻¹; its product has errors as small as a solve's where the block is well conditioned, as one of a damped Gram is."""
    identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor, identity, upper=False)
