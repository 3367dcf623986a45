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
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerlens.linalg.sparse_tokens import has_value


class TokenMixer:
    """Mixes the tokens of one batch, the same way for every layer and however the batch is cut into parts.

    Args:
        num_rows: m, sums of each sample; a batch whose samples have no more tokens than that is taken as it is.
        seed: Seed of the signs.
        mask: Tokens of the whole batch that are no padding; None where all count.
        num_samples: Samples of the whole batch; None where the values are the whole batch.
        part: Samples of the batch that the values hold; None for all.
    """

    def __init__(
        self,
        num_rows: int,
        seed: int,
        mask: Bool[Tensor, "samples tokens"] | None,
        *,
        num_samples: int | None = None,
        part: slice | None = None,
    ) -> None:
        self._num_rows, self._seed, self._num_samples = num_rows, seed, num_samples
        self._part = part or slice(None)
        self._mask = mask if mask is None else mask[self._part]
        self._signs: dict[int, Float[Tensor, "samples mixed tokens"]] = {}

    def kept(self, num_samples: int, num_tokens: int) -> Bool[Tensor, "samples tokens"] | None:
        """Tokens that count; None where all do."""
        # A layer that does not see the whole sequence (after pooling, say) has no padding either.
        return self._mask if self._mask is not None and self._mask.shape == (num_samples, num_tokens) else None

    def is_exact(self, num_tokens: int) -> bool:
        """Whether samples of that many tokens are taken as they are."""
        return num_tokens <= self._num_rows

    def count(self, values: Float[Tensor, "samples tokens features"]) -> int:
        """Unpadded tokens of the values."""
        mask = self.kept(*values.shape[:2])
        return values.shape[0] * values.shape[1] if mask is None else int(mask.sum().item())

    def rows(self, values: Float[Tensor, "samples tokens features"]) -> Float[Tensor, "rows features"]:
        """Rows whose outer products sum to those of the unpadded tokens, exactly or in expectation."""
        num_samples, num_tokens, _ = values.shape
        if self.is_exact(num_tokens):
            mask = self.kept(num_samples, num_tokens)
            return values.flatten(0, 1) if mask is None else values[mask]
        return torch.bmm(self._signs_of(values, num_tokens), values).flatten(0, 1)

    def split(
        self,
        values: Float[Tensor, "samples kept features"],
        num_tokens: int,
        positions: Int[Tensor, "samples kept"] | None = None,
    ) -> tuple[Bool[Tensor, "samples kept"], Float[Tensor, "rows features"] | None]:
        """The same for values that may be zero at most tokens: a sample with few others is taken as it is.

        What is done to a sample does not depend on which others are beside it.

        Args:
            values: Of every sample at some of its tokens; zero at all others.
            num_tokens: Tokens of each sample.
            positions: Which tokens these are; None for all of them.

        Returns:
            Which tokens are taken as they are, and mixed rows for the other samples; None where there are none.
        """
        mask = self.kept(len(values), num_tokens)
        if mask is not None and positions is not None:
            mask = mask.gather(1, positions)
        counted = has_value(values) if mask is None else has_value(values) & mask
        is_mixed = counted.sum(dim=1) > self._num_rows
        if not bool(is_mixed.any()):
            return counted, None
        signs = self._signs_of(values, num_tokens)
        if positions is not None:
            signs = signs.gather(2, positions[:, None, :].expand(-1, self._num_rows, -1))
        if not bool(is_mixed.all()):
            signs, values = signs[is_mixed], values[is_mixed]
        return counted & ~is_mixed[:, None], torch.bmm(signs, values).flatten(0, 1)

    def _signs_of(self, values: Float[Tensor, "samples _ features"], num_tokens: int) -> Float[Tensor, "samples mixed tokens"]:
        """Signs over √m, zero at padding."""
        if num_tokens not in self._signs:
            random = np.random.default_rng([self._seed, num_tokens])
            # Drawn for the whole batch, so that a part of it gets the signs it has there.
            size = (self._num_samples or len(values), self._num_rows, num_tokens)
            drawn = random.integers(0, 2, size=size, dtype=np.int8)[self._part]
            signs = torch.from_numpy(drawn).to(values).mul_(2.0).sub_(1.0).div_(self._num_rows**0.5)
            mask = self.kept(len(values), num_tokens)
            self._signs[num_tokens] = signs if mask is None else signs * mask[:, None, :]
        return self._signs[num_tokens]
