"""Inner products of whitened rows, without a matrix of the size of their features.

For rows P to be whitened by the damped mean A = ZᵀZ/n of rows Z, by the Woodbury identity,

    P (A + λI)⁻¹ Pᵀ = (PPᵀ − PZᵀ (nλI + ZZᵀ)⁻¹ ZPᵀ) / λ,

which for P = Z is n (I − nλ (nλI + ZZᵀ)⁻¹). Everything is read off one Gram of all rows. Along a direction in which A is k,
the two terms agree in log₁₀(k/λ) digits, and k/λ reaches features / damping: hence float64, and a Gram in float64 where P is
not Z.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def whitened_gram(
    gram: Float[Tensor, "stacked stacked"],
    is_gram_row: Bool[Tensor, " stacked"],
    num_whitened: int,
    *,
    features: int,
    count: int,
    damping: float,
) -> Float[Tensor, "rows rows"] | None:
    """Whiten the leading rows.

    Args:
        gram: Inner products of all rows, those to be whitened first; not changed.
        is_gram_row: Which rows are in Z.
        num_whitened: Rows to whiten.
        features: Width of the rows.
        count: n.
        damping: λ as a share of the mean eigenvalue of A, above zero.

    Returns:
        Inner products of the whitened rows in float64; None where A is zero, or so small that its type has no digits for it.
    """
    ridge = damping * float(gram.diagonal()[is_gram_row].double().sum().item()) / features
    if count == 0 or ridge <= torch.finfo(gram.dtype).tiny:
        return None
    if num_whitened == len(gram) and bool(is_gram_row.all()):
        damped = gram.to(torch.float64, copy=True)
        damped.diagonal().add_(ridge)
        whitened = torch.cholesky_inverse(torch.linalg.cholesky(damped)).mul_(-ridge * count)
        whitened.diagonal().add_(count)
        return whitened
    inner = gram[is_gram_row][:, is_gram_row].double()
    inner.diagonal().add_(ridge)
    across = gram[is_gram_row, :num_whitened].double()
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), across, upper=False)
    return torch.addmm(gram[:num_whitened, :num_whitened].double(), half.t(), half, alpha=-1.0).mul_(count / ridge)
