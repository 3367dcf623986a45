"""What the pass finds out about one layer: both marginals of its Fisher matrix.

With G_s = Σ_t g_t x_tᵀ for sample s the Fisher matrix is F = Σ_s vec(G_s) vec(G_s)ᵀ, and a change E of the weight costs
½ ⟨E, F E⟩. The Kronecker product with F's own marginals is B ⊗ A / tr F:

    A = Σ_s G_sᵀ G_s  [in in]          B = Σ_s G_s G_sᵀ  [out out]          tr A = tr B = tr F = Σ_s ‖G_s‖²

It prices every error exactly that has no preferred direction on one of its two sides, whatever it has on the other. K-FAC,
whose A and B are E[x xᵀ] and E[g gᵀ], takes inputs and gradients for independent of each other and tokens for independent or
equal. They are neither: the tokens with the largest inputs are often those that nothing depends on; gradients of attention keys
sum to nothing, as a softmax does not feel what all its logits share; those of a pooled encoder all point one way.

    to price   thin roots over held-out samples: R = Σ_s ε_s z G_s with random signs z, ε, so E Rᵀ R ∝ A; and B's likewise
    to fit     A ≈ Σ_s (Σ_t ‖g_t‖² x̃_t x̃_tᵀ + ‖ĝ‖² m mᵀ) with x_t = m + x̃_t, m a sample's mean, ĝ = Σ_t g_t; and B's likewise

Sources: Martens, Grosse (2015), arXiv 1503.05671, for K-FAC; the marginals are those of Shampoo, Gupta, Koren, Singer (2018),
arXiv 1802.09568, a step towards the nearest Kronecker product: Morwani et al. (2024), arXiv 2406.17748.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from layerlens.compressing.moment_sums import (
    MOST_FULL,
    SKETCH_ROWS,
    FittedSum,
    HeldRoot,
    fitted_bytes,
    held_bytes,
    random_signs,
    sized,
)

#: What the signs of a sketch are for.
_INPUTS, _GRADIENTS, _SAMPLES = 0, 1, 2


class InputMoments:
    """What layers that read the same input share: a root of its held-out second moments, for the error of their outputs."""

    def __init__(self, features: int) -> None:
        self.held = HeldRoot(features)


class LayerMoments:
    """Marginals of one layer.

    Args:
        out_features: Rows of the layer's matrix.
        in_features: Its columns.
        inputs: What it shares with others.

    Attributes:
        fisher_trace: tr F over all samples.
    """

    def __init__(self, out_features: int, in_features: int, inputs: InputMoments) -> None:
        self.inputs, self.fisher_trace = inputs, 0.0
        self._input_sum = FittedSum(in_features, is_full=True)
        self._output_sum = FittedSum(out_features, is_full=out_features <= MOST_FULL)
        self._input_root = torch.zeros(SKETCH_ROWS, in_features)
        self._output_root = torch.zeros(SKETCH_ROWS, out_features)
        self._output_signs = random_signs(np.random.default_rng(_GRADIENTS), SKETCH_ROWS, out_features)
        self._input_signs = random_signs(np.random.default_rng(_INPUTS), SKETCH_ROWS, in_features)

    def add(
        self,
        inputs: Float[Tensor, "samples tokens in_features"],
        gradient: Float[Tensor, "samples tokens out_features"],
        is_held: Bool[Tensor, " samples"],
        counts: Float[Tensor, " samples"],
        seed: tuple[int, ...],
    ) -> None:
        """Take samples in.

        Args:
            inputs: x; zero at padding.
            gradient: g; zero at padding.
            is_held: Samples that are held out.
            counts: Real tokens of each sample.
            seed: Of signs of the samples' own.
        """
        fitted = ~is_held
        if bool(fitted.any()):
            self._fit(inputs[fitted], gradient[fitted], counts[fitted])
        if bool(is_held.any()):
            self._hold(inputs[is_held], gradient[is_held], seed)

    def _fit(self, inputs: Tensor, gradient: Tensor, counts: Tensor) -> None:
        means = inputs.sum(1) / counts.clamp_min(1.0)[:, None]
        sums = gradient.sum(1)
        # A padded token's gradient is zero, and so is its row of A; of B its own row is.
        within = inputs - means[:, None]
        self._input_sum.add((within * gradient.norm(dim=-1, keepdim=True)).flatten(0, 1))
        self._input_sum.add(means * sums.norm(dim=-1, keepdim=True))
        self._output_sum.add((gradient * within.norm(dim=-1, keepdim=True)).flatten(0, 1))
        self._output_sum.add(sums * means.norm(dim=-1, keepdim=True))

    def _hold(self, inputs: Tensor, gradient: Tensor, seed: tuple[int, ...]) -> None:
        random = np.random.default_rng([*seed, _SAMPLES])
        for root, signs, own, other in (
            (self._input_root, self._output_signs, inputs, gradient),
            (self._output_root, self._input_signs, gradient, inputs),
        ):
            mixed = (other.flatten(0, 1) @ signs.T).view(*other.shape[:2], SKETCH_ROWS)
            mixed *= random_signs(random, len(own), SKETCH_ROWS)[:, None]
            root.addmm_(mixed.flatten(0, 1).T, own.flatten(0, 1))

    def grams(
        self,
    ) -> tuple[
        Float[Tensor, "in_features in_features"],
        Float[Tensor, "out_features out_features"] | Float[Tensor, " out_features"],
    ]:
        """A and B to fit by, each of the trace of a unit; given away."""
        return self._input_sum.moments(1.0), self._output_sum.moments(1.0)

    def roots(self, trace: float) -> tuple[Float[Tensor, "left_rows out_features"], Float[Tensor, "right_rows in_features"]]:
        """Thin roots of B, at a trace that is given, and of A, at one."""
        return sized(self._output_root, trace), sized(self._input_root, 1.0)


def layer_moment_bytes(out_features: int, in_features: int) -> int:
    """Bytes of a `LayerMoments`, without what it shares."""
    sums = fitted_bytes(in_features, is_full=True) + fitted_bytes(out_features, is_full=out_features <= MOST_FULL)
    return sums + 2 * 4 * SKETCH_ROWS * (in_features + out_features)


def input_moment_bytes(features: int) -> int:
    """Bytes of an `InputMoments`."""
    return held_bytes(features)
