"""Cross-fitted whitened gain: how many nats a rank-r update of one layer alone should gain.

To second order, with the Kronecker-factored curvature A ⊗ B, an update ΔW changes the loss by

    ⟨G, ΔW⟩ + ½ tr(B ΔW A ΔWᵀ),

which a rank-r ΔW minimises by −½ Σ_{i≤r} σ_i² with σ_i the singular values of the whitened gradient
M = B^(−½) G A^(−½). Taken from one set of samples this counts noise as gain, because the directions are fitted to it. So
directions and sizes come from M₁ of one half of the samples and are scored on M₂ of the other:

    value(r) = ½ Σ_{i≤r} σ_i u_iᵀ M₂ v_i = ½ Σ_{i≤r} u_iᵀ (M₂ M₁ᵀ) u_i      (since M₁ᵀ u_i = σ_i v_i),

u_i the leading eigenvectors of M₁ M₁ᵀ; both swaps are averaged, the curve is cut at its maximum and replaced by its
concave envelope. Noise scores zero in expectation.

Units. G is the gradient of the mean per-sample loss (nats), A the mean of x xᵀ over tokens, B the sum of g gᵀ over tokens and the
mean over samples. A ⊗ B approximates the Fisher information of the per-sample loss, which equals its curvature where that
loss is one log-likelihood. A loss that is the mean of n log-likelihoods (a language model's, over tokens) has n times that
curvature; `num_terms` divides the gain accordingly.

Sources: K-FAC: Martens, Grosse (2015), arXiv 1503.05671, eq. 1; cross-fitting: Chernozhukov et al. (2016), arXiv 1608.00060.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.curves.concave_envelope import concave_envelope


def cross_fitted_gain(
    first: Float[Tensor, "out_features in_features"],
    second: Float[Tensor, "out_features in_features"],
    max_rank: int,
    *,
    num_terms: float = 1.0,
) -> Float[np.ndarray, " ranks"]:
    """Gain curve of a layer from the whitened mean gradients of two halves of the samples.

    Given the mean of all samples twice, it is the plain ½ Σ σ_i², which counts noise as gain.

    Args:
        first: M₁, whitened mean gradient of one half (any orthogonal change of basis shared with M₂ will do).
        second: M₂, whitened alike, of the other half.
        max_rank: R, longest curve; at most the smaller side is used and the rest of the curve is flat.
        num_terms: Log-likelihood terms that the per-sample loss is the mean of.

    Returns:
        Cumulative gain in nats at rank 1 … R, float64, non-negative, non-decreasing and concave.
    """
    if first.shape[0] > first.shape[1]:
        first, second = first.t(), second.t()
    # M₂ M₁ᵀ serves both swaps: only its quadratic form counts, which transposing does not change.
    cross = second @ first.t()
    steps = (_scores(first, cross, max_rank) + _scores(second, cross, max_rank)) / 2.0
    curve = np.cumsum(steps) / (2.0 * num_terms)
    return concave_envelope(np.pad(curve, (0, max_rank - len(curve)), mode="edge"))


def _scores(
    fitted: Float[Tensor, "small large"], cross: Float[Tensor, "small small"], max_rank: int
) -> Float[np.ndarray, " ranks"]:
    """σ_i u_iᵀ M₂ v_i for the leading singular directions of the fitted half."""
    _, vectors = torch.linalg.eigh(fitted @ fitted.t())
    leading = vectors[:, -min(max_rank, len(vectors)) :].flip(1)
    return (leading * (cross @ leading)).sum(dim=0).double().cpu().numpy()
