"""Sums of outer products Σ_n z_n z_nᵀ, accumulated over batches at about half the cost of a full matrix product.

Only the blocks on and above the diagonal are computed; `completed` mirrors them once at the end.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_NUM_BLOCKS = 4
_SMALLEST_BLOCKED = 256


def add_gram_(gram: Float[Tensor, "features features"], rows: Float[Tensor, "tokens features"]) -> None:
    """Add Σ_n z_n z_nᵀ over the rows to `gram`, in place, in its upper triangle (of blocks) only."""
    features = gram.shape[0]
    step = features if features < _SMALLEST_BLOCKED else -(-features // _NUM_BLOCKS)
    for start in range(0, features, step):
        gram[start : start + step, start:].addmm_(rows[:, start : start + step].t(), rows[:, start:])


def completed(gram: Float[Tensor, "features features"]) -> Float[Tensor, "features features"]:
    """Mirror the upper triangle, so that the result is exactly symmetric."""
    return torch.triu(gram) + torch.triu(gram, diagonal=1).t()
