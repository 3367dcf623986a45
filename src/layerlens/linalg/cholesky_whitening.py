"""Whitening of a layer's gradient by damped Cholesky factors of its Grams.

With A + λ_A I = L_A L_Aᵀ and B + λ_B I = L_B L_Bᵀ, the whitened gradient is M = L_B⁻¹ G L_A⁻ᵀ. It differs from the
symmetric form B^(−½) G A^(−½) by an orthogonal matrix on each side, so singular values, and every inner product of
two gradients whitened alike, are the same; a Cholesky factor costs a tenth of a symmetric root.

Damping: λ = damping × (mean eigenvalue of the Gram), so that the choice does not depend on the scale of the data.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def damped_cholesky(gram: Float[Tensor, "features features"], damping: float) -> Float[Tensor, "features features"] | None:
    """Factor the damped Gram.

    Args:
        gram: Symmetric, positive semidefinite; not changed.
        damping: Ridge as a share of the mean eigenvalue, above zero.

    Returns:
        The lower factor in the Gram's type, or None where the Gram is zero (nothing was seen, so nothing can be whitened).
    """
    ridge = damping * gram.diagonal().double().mean().item()
    if ridge <= 0.0:
        return None
    damped = gram.clone()
    damped.diagonal().add_(ridge)
    factor, info = torch.linalg.cholesky_ex(damped)
    if info.item() == 0:
        return factor
    # A tiny damping leaves float32 too few digits to tell the matrix from a singular one.
    return torch.linalg.cholesky(damped.double()).to(gram.dtype)


def whiten(
    gradient: Float[Tensor, "out_features in_features"],
    output_factor: Float[Tensor, "out_features out_features"],
    input_factor: Float[Tensor, "in_features in_features"],
) -> Float[Tensor, "out_features in_features"]:
    """Compute M = L_B⁻¹ G L_A⁻ᵀ by two triangular solves."""
    left = torch.linalg.solve_triangular(output_factor, gradient, upper=False)
    return torch.linalg.solve_triangular(input_factor.t(), left, upper=True, left=False)
