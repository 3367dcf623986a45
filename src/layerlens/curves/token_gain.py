"""The cross-fitted gain (`cross_fitted_gain.py`) of a gradient that is known by its tokens.

With whitened rows X̃_a, Γ̃_a of half a, the whitened gradient is M_a = Γ̃_aᵀ X̃_a / n_a, and its singular directions are read off the
inner products K_ab = X̃_a X̃_bᵀ and H_ab = Γ̃_a Γ̃_bᵀ. With K₁₁ = L Lᵀ and Lᵀ H₁₁ L w_i = s_i² w_i,

    u_i = Γ̃₁ᵀ L w_i / s_i,    σ_i = s_i / n₁,    u_iᵀ M₂ M₁ᵀ u_i = (H₂₁ L w_i)ᵀ K₂₁ (H₁₁ L w_i) / (s_i² n₁ n₂).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from layerlens.curves.concave_envelope import concave_envelope

#: Squared singular values below this share of the largest are zero but for rounding (float64).
_ZERO = 1e-12
#: Ridge of the first try to factor K₁₁, as a share of its largest entry; equal tokens make it singular.
_JITTER = 1e-14


def token_gain(
    inputs: Float[Tensor, "tokens tokens"],
    outputs: Float[Tensor, "tokens tokens"],
    is_first: Bool[Tensor, " tokens"],
    half_sizes: tuple[int, int],
    max_rank: int,
    *,
    num_terms: float = 1.0,
    is_cross_fitted: bool = True,
) -> Float[np.ndarray, " ranks"]:
    """Gain curve of a layer from the inner products of its whitened tokens.

    Args:
        inputs: K, of the inputs, in float64.
        outputs: H, of the output gradients, in float64.
        is_first: Which tokens are of samples of the first half.
        half_sizes: n₁, n₂, samples of the halves.
        max_rank: R, longest curve; flat from the rank on that the tokens can have.
        num_terms: Log-likelihood terms that the per-sample loss is the mean of.
        is_cross_fitted: Off, directions are scored on the samples that they come from: the plain ½ Σ σ_i² of all samples.

    Returns:
        Cumulative gain in nats at rank 1 … R, float64, non-negative, non-decreasing and concave.
    """
    steps = np.zeros(max_rank)
    if not is_cross_fitted:
        all_tokens = torch.ones_like(is_first)
        scores = _scores(inputs, outputs, all_tokens, all_tokens, max_rank)
        steps[: len(scores)] = scores
        return concave_envelope(np.cumsum(steps) / (2.0 * num_terms * max(1, sum(half_sizes)) ** 2))
    for fitted, scored in ((is_first, ~is_first), (~is_first, is_first)):
        if bool(fitted.any()) and bool(scored.any()):
            scores = _scores(inputs, outputs, fitted, scored, max_rank)
            steps[: len(scores)] += scores / 2.0
    scale = 2.0 * num_terms * max(1, half_sizes[0]) * max(1, half_sizes[1])
    return concave_envelope(np.cumsum(steps) / scale)


def _scores(
    inputs: Float[Tensor, "tokens tokens"],
    outputs: Float[Tensor, "tokens tokens"],
    fitted: Bool[Tensor, " tokens"],
    scored: Bool[Tensor, " tokens"],
    max_rank: int,
) -> Float[np.ndarray, " ranks"]:
    """n₁ n₂ σ_i u_iᵀ M₂ v_i for the leading singular directions of the fitted half."""
    within = outputs[fitted][:, fitted]
    root = _root(inputs[fitted][:, fitted])
    values, vectors = torch.linalg.eigh(root.t() @ within @ root)
    values, vectors = values.flip(0)[:max_rank], vectors.flip(1)[:, :max_rank]
    is_there = values > _ZERO * values[0]
    values, vectors = values[is_there], vectors[:, is_there]
    directions = root @ vectors
    across = outputs[scored][:, fitted] @ directions
    products = across * (inputs[scored][:, fitted] @ (within @ directions))
    return (products.sum(dim=0) / values).cpu().numpy()


def _root(gram: Float[Tensor, "tokens tokens"]) -> Float[Tensor, "tokens tokens"]:
    """L with L Lᵀ = gram, which may be singular."""
    jitter = _JITTER * gram.diagonal().max().item()
    for _ in range(4):
        damped = gram.clone()
        damped.diagonal().add_(jitter)
        root, info = torch.linalg.cholesky_ex(damped)
        if info.item() == 0:
            return root
        jitter *= 30.0
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp_min_(0.0).sqrt()
