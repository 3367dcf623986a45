"""Whitening of a layer's gradient by damped roots of its Grams, in place.

With A + λ_A I = L_A L_Aᵀ and B + λ_B I = L_B L_Bᵀ, the whitened gradient is M = L_B⁻¹ G L_A⁻ᵀ. It differs from the
symmetric form B^(−½) G A^(−½) by an orthogonal matrix on each side, so singular values, and every inner product of
two gradients whitened alike, are the same; a Cholesky factor costs a tenth of a symmetric root.

Where the Gram is that of few rows Z, A = ZᵀZ/n, nothing of its size is made: with ZZᵀ = V k Vᵀ and Q = ZᵀV k^(−½),

    (A + λI)^(−½) = λ^(−½) (I + Q (√(nλ / (k + nλ)) − 1) Qᵀ).

Damping: λ = damping × (mean eigenvalue of the Gram), so that the choice does not depend on the scale of the data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.linalg.blocked_triangular import cholesky_, solve_
from layerlens.linalg.gram import GramSum, row_gram

#: Eigenvalues of ZZᵀ below this share of the ridge are not told from zero.
_DROWNED = 1e-7
#: Columns of rows that are in float64 at once.
_COLUMNS_AT_ONCE = 256


class Whitener(ABC):
    """Multiplies rows by a root of the inverse of a damped Gram."""

    @abstractmethod
    def apply_(self, matrix: Float[Tensor, "rows features"]) -> None:
        """Whiten every row in place; a transposed view of a contiguous matrix is as good as one."""


def damped_whitener(gram: GramSum, count: int, damping: float, *, releases: bool = False) -> Whitener | None:
    """Make the whitener of a mean of outer products.

    Args:
        gram: Their sum.
        count: What the sum is divided by.
        damping: Ridge as a share of the mean eigenvalue, above zero.
        releases: The sum may be let go of.

    Returns:
        None where the Gram is zero (nothing was seen, so nothing can be whitened), or so small that float32 has no digits for it.
    """
    ridge = damping * gram.trace() / gram.features
    if count == 0 or ridge <= torch.finfo(torch.float32).tiny:
        return None
    rows = gram.rows
    whitener = _CholeskyWhitener(_factored(gram.full, ridge), count) if rows is None else _RowWhitener(rows, ridge, count)
    if releases:
        gram.clear()
    return whitener


class _CholeskyWhitener(Whitener):
    """By the factor of the damped sum; the mean of `count` is that sum over it, so roots differ by √count."""

    def __init__(self, factor: Float[Tensor, "features features"], count: int) -> None:
        self._factor, self._scale = factor, float(count) ** 0.5

    def apply_(self, matrix: Float[Tensor, "rows features"]) -> None:
        solve_(self._factor, matrix)
        matrix *= self._scale


class _RowWhitener(Whitener):
    """By the principal directions Q of rows Z of the sum, damped by `ridge`: I + Q (√(ridge / (k + ridge)) − 1) Qᵀ."""

    def __init__(self, rows: Float[Tensor, "rows features"], ridge: float, count: int) -> None:
        values, vectors = torch.linalg.eigh(row_gram(rows, torch.float64))
        # Directions that the ridge drowns change nothing, and are rounding themselves.
        is_seen = values > _DROWNED * ridge
        values, vectors = values[is_seen], vectors[:, is_seen]
        projection = (vectors / values.sqrt()).t()
        # In float64, a few columns at a time: small directions must not take over rounding from the large ones.
        self._directions = torch.empty(len(values), rows.shape[1], dtype=rows.dtype, device=rows.device)
        for start in range(0, rows.shape[1], _COLUMNS_AT_ONCE):
            columns = slice(start, start + _COLUMNS_AT_ONCE)
            self._directions[:, columns] = projection @ rows[:, columns].double()
        self._shrinkage = (1.0 - (ridge / (values + ridge)).sqrt()).to(rows.dtype)
        self._scale = (count / ridge) ** 0.5

    def apply_(self, matrix: Float[Tensor, "rows features"]) -> None:
        matrix.addmm_((matrix @ self._directions.t()) * self._shrinkage, self._directions, alpha=-1.0)
        matrix *= self._scale


def _factored(make: Callable[[], Tensor], ridge: float) -> Float[Tensor, "features features"]:
    """Lower Cholesky factor of the made matrix + ridge · I, in that matrix's own memory."""
    damped = make()
    dtype = damped.dtype
    damped.diagonal().add_(ridge)
    if cholesky_(damped):
        return damped
    # A tiny damping leaves float32 too few digits to tell the matrix from a singular one; and the rounding of its entries,
    # at most that of its trace, may leave negative eigenvalues that no smaller damping lifts.
    del damped
    precise = make().double()
    rounding = torch.finfo(dtype).eps * precise.diagonal().sum().item()
    precise.diagonal().add_(ridge)
    factor, info = torch.linalg.cholesky_ex(precise)
    if info.item() != 0:
        precise.diagonal().add_(rounding)
        factor = torch.linalg.cholesky(precise)
    return factor.to(dtype)
