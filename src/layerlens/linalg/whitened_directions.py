"""The input directions of the best low-rank update of a layer, to second order.

With gradient G and Kronecker-factored curvature A ⊗ B, ⟨G, ΔW⟩ + ½ tr(B ΔW A ΔWᵀ) is least over updates of rank r at

    ΔW = −L_B⁻ᵀ U_r Σ_r V_rᵀ L_A⁻¹,    U Σ Vᵀ = M = L_B⁻¹ G L_A⁻ᵀ,

with A = L_A L_Aᵀ and B = L_B L_Bᵀ (any other root gives the same ΔW). The rows of V_rᵀ L_A⁻¹ span the inputs that it reads.

Source: K-FAC: Martens, Grosse (2015), arXiv 1503.05671; in whitened coordinates the minimum is Eckart and Young's (1936).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.linalg.cholesky_whitening import Whitener


def whitened_directions(
    gradient: Float[Tensor, "out_features in_features"], inputs: Whitener, outputs: Whitener, rank: int
) -> Float[Tensor, "rank in_features"]:
    """Rows of V_rᵀ L_A⁻¹, strongest first, each of length 1; zero where M has no further direction.

    Args:
        gradient: G, of any scale.
        inputs: Whitens by a root of A.
        outputs: Whitens by a root of B.
        rank: r, at most the smaller side of G.
    """
    whitened = gradient.clone()
    inputs.apply_(whitened)
    outputs.apply_(whitened.t())
    # The eigenvectors of the smaller side's Gram are enough.
    is_wide = whitened.shape[0] < whitened.shape[1]
    values, vectors = torch.linalg.eigh(whitened @ whitened.t() if is_wide else whitened.t() @ whitened)
    values, leading = values[-rank:].flip(0), vectors[:, -rank:].flip(1).t()
    if is_wide:
        leading = leading @ whitened
    root = torch.eye(gradient.shape[1], dtype=gradient.dtype, device=gradient.device)
    inputs.apply_(root)
    directions = leading @ root.t()
    directions /= torch.linalg.vector_norm(directions, dim=1, keepdim=True).clamp_min_(torch.finfo(gradient.dtype).tiny)
    is_there = values > torch.finfo(gradient.dtype).eps * len(vectors) * values[0]
    return directions * is_there[:, None]
