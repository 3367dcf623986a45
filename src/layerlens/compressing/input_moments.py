"""Second moments of what a layer reads, in two parts: what the tokens of a sample have in common, and how they differ from it.

    x_t = m + x̃_t,  m = mean over the sample's tokens          Σ_t g_t x_tᵀ = (Σ_t g_t) mᵀ + Σ_t g_t x̃_tᵀ

An error's effect through m is felt by the sum of the gradients, its effect through x̃_t by each token's own. The two differ
widely: gradients of attention keys sum to nothing, as a softmax does not feel what all its logits share, while those of a
pooled encoder all point one way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.compressing.calibration_samples import Tokens
from layerlens.compressing.moment_sums import MANY_ROWS, HeldRoot, held_bytes, squares
from layerlens.linalg.gram import GramSum, gram_bytes

_WITHIN, _MEANS = 0, 1


@dataclass(frozen=True)
class SeenInput:
    """What layers that read the same input share.

    Attributes:
        within: Ã = mean over tokens of x̃ x̃ᵀ, of the samples that are fitted to.
        mean_rows: m of these; M = mean over samples of m mᵀ.
        within_root: Thin root of Ã of the held-out samples.
        means_root: Thin root of M of these.
        root: Thin root of the mean over tokens of x xᵀ, of these.
        within_trace: Trace of Ã over all samples.
        means_trace: Trace of M over all samples.
    """

    within: Float[Tensor, "in_features in_features"]
    mean_rows: Float[Tensor, "samples in_features"]
    within_root: Float[Tensor, "_ in_features"]
    means_root: Float[Tensor, "_ in_features"]
    root: Float[Tensor, "_ in_features"]
    within_trace: float
    means_trace: float

    def gram(self, within_weight: float, means_weight: float) -> Float[Tensor, "in_features in_features"]:
        """The weighted mean of Ã and M, to fit codes and factors by."""
        total = within_weight + means_weight
        if total <= 0:
            return torch.zeros_like(self.within)
        scale = means_weight / (total * max(1, len(self.mean_rows)))
        return torch.addmm(self.within, self.mean_rows.T, self.mean_rows, beta=within_weight / total, alpha=scale)


class InputMoments:
    """Moments of one input, fed part by part.

    Args:
        features: Width of a row.
        is_centred: Tell a sample's mean from its tokens; otherwise the mean counts as nothing.

    Attributes:
        num_rows: Real tokens so far.
    """

    def __init__(self, features: int, *, is_centred: bool = True) -> None:
        self.features, self.is_centred, self.num_rows = features, is_centred, 0
        self._gram = GramSum(features, MANY_ROWS)
        self._mean_rows: list[Tensor] = []
        self._within, self._means = HeldRoot(features), HeldRoot(features)
        self._within_squares, self._mean_squares, self._counted_mean_squares = 0.0, 0.0, 0.0
        self._num_samples, self._num_fitted = 0, 0

    def split(
        self, inputs: Float[Tensor, "samples tokens features"], tokens: Tokens
    ) -> tuple[Float[Tensor, "samples tokens features"], Float[Tensor, "samples features"]]:
        """x̃, zero at padding, and m."""
        mask = tokens.mask_of(inputs)
        if not self.is_centred:
            own = inputs if mask is None else inputs * mask[..., None]
            return own, inputs.new_zeros(len(inputs), self.features)
        if mask is None:
            means = inputs.mean(1)
            return inputs - means[:, None], means
        counts = mask.sum(1, keepdim=True).clamp_min(1)
        means = (inputs * mask[..., None]).sum(1) / counts
        return (inputs - means[:, None]) * mask[..., None], means

    def add(
        self, within: Float[Tensor, "samples tokens features"], means: Float[Tensor, "samples features"], tokens: Tokens
    ) -> None:
        """Take in what `split` gave."""
        fitted, held = tokens.split(within)
        mask = tokens.mask_of(within)
        counts = torch.full((len(within),), float(within.shape[1])) if mask is None else mask.sum(1).float()
        self.num_rows += len(fitted) + len(held)
        self._num_fitted += len(fitted)
        self._num_samples += len(means)
        self._gram.add(fitted)
        self._within.add(held, (*tokens.seed, _WITHIN))
        self._within_squares += squares(within.flatten(0, 1))
        norms = means.square().sum(1).double()
        self._mean_squares += float(norms.sum())
        self._counted_mean_squares += float((norms * counts).sum())
        self._mean_rows.append(means[~tokens.is_held])
        self._means.add(means[tokens.is_held], (*tokens.seed, _MEANS))

    def seen(self) -> SeenInput:
        """Put the moments together; the sums are given away."""
        rows, samples = max(1, self.num_rows), max(1, self._num_samples)
        within_root = self._within.root(self._within_squares / rows)
        means = self._means.root(1.0)
        gram = self._gram.full().div_(self._num_fitted) if self._num_fitted else torch.zeros(self.features, self.features)
        self._gram.clear()
        return SeenInput(
            within=gram,
            mean_rows=torch.cat(self._mean_rows) if self._mean_rows else torch.zeros(0, self.features),
            within_root=within_root,
            means_root=means * (self._mean_squares / samples) ** 0.5,
            root=torch.cat([within_root, means * (self._counted_mean_squares / rows) ** 0.5]),
            within_trace=self._within_squares / rows,
            means_trace=self._mean_squares / samples,
        )


def input_moment_bytes(features: int) -> int:
    """Bytes of an `InputMoments`, without the means of its samples."""
    return gram_bytes(features, MANY_ROWS) + 2 * held_bytes(features)
