"""A few random ±1 sums in place of a sample's many tokens, with the same sum of outer products in expectation.

With independent signs ε and m sums z_k = m^(−½) Σ_t ε_kt x_t of one sample,

    E Σ_k z_k z_kᵀ = Σ_t x_t x_tᵀ.

Every token of every sample takes part, so no direction is missed: a Gram of chosen tokens, or of a few samples' tokens, is
blind to the directions of the others, and whitening by it blows these up. Costs m / out_features of the layer's own product.

Source: Achlioptas (2003), Database-friendly random projections, theorem 1.1.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor


class TokenMixer:
    """Mixes the tokens of one batch, the same way for every layer.

    Args:
        num_rows: m, sums of each sample; a batch whose samples have no more tokens than that is taken as it is.
        seed: Seed of the signs.
        mask: Tokens that are no padding; None where all count.
    """

    def __init__(self, num_rows: int, seed: int, mask: Bool[Tensor, "samples tokens"] | None) -> None:
        self._num_rows, self._seed, self._mask = num_rows, seed, mask
        self._signs: dict[int, Float[Tensor, "samples mixed tokens"]] = {}

    def rows(self, values: Float[Tensor, "samples tokens features"]) -> Float[Tensor, "rows features"]:
        """Rows whose outer products sum to those of the unpadded tokens, exactly or in expectation."""
        num_samples, num_tokens, _ = values.shape
        mask = self._mask_for(num_tokens)
        if num_tokens <= self._num_rows:
            return values.flatten(0, 1) if mask is None else values[mask]
        if num_tokens not in self._signs:
            random = np.random.default_rng([self._seed, num_tokens])
            drawn = random.integers(0, 2, size=(num_samples, self._num_rows, num_tokens), dtype=np.int8)
            signs = torch.from_numpy(drawn).to(values).mul_(2.0).sub_(1.0).div_(self._num_rows**0.5)
            self._signs[num_tokens] = signs if mask is None else signs * mask[:, None, :]
        return torch.bmm(self._signs[num_tokens], values).flatten(0, 1)

    def count(self, values: Float[Tensor, "samples tokens features"]) -> int:
        """Unpadded tokens behind the rows."""
        mask = self._mask_for(values.shape[1])
        return values.shape[0] * values.shape[1] if mask is None else int(mask.sum().item())

    def _mask_for(self, num_tokens: int) -> Bool[Tensor, "samples tokens"] | None:
        # A layer that does not see the whole sequence (after pooling, say) has no padding either.
        return self._mask if self._mask is not None and self._mask.shape[1] == num_tokens else None
