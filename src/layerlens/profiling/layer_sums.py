"""Running sums of one layer's statistics over batches; the same for any way of getting its inputs and gradients.

Norms (see DESIGN.md section 3): for a sample's loss ℓ in nats and output gradients g_t = ∂ℓ/∂y_t,

    G = mean over samples of Σ_t g_t x_tᵀ        fisher = mean over samples of ‖Σ_t g_t x_tᵀ‖²_F
    A = mean over unpadded tokens of x_t x_tᵀ    B = mean over samples of Σ_t g_t g_tᵀ
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.artifacts.layers import LayerSpec
from layerlens.linalg.gram import add_gram_, completed
from layerlens.linalg.per_sample_norms import (
    add_gradients_,
    add_gradients_with_norms_,
    ghost_norms,
    is_direct_cheaper,
    is_ghost_cheaper_alone,
    token_gram,
)
from layerlens.linalg.token_mixing import TokenMixer
from layerlens.profiling.calibration import CalibrationBatch

#: Columns that are looked at first to find out whether most tokens have no gradient.
_PROBED_COLUMNS = 4


@dataclass
class InputSums:
    """What layers that read the same input share: the sum for A, and the token Gram of the batch at hand."""

    num_sharing: int = 0
    gram: Float[Tensor, "in_features in_features"] | None = None
    num_tokens: int = 0
    num_rows: int = 0
    token_gram: Float[Tensor, "samples tokens tokens"] | None = None

    def add(self, inputs: Float[Tensor, "samples tokens in_features"], mixer: TokenMixer) -> None:
        """Add the unpadded tokens of a batch to A."""
        rows = mixer.rows(inputs.float())
        if self.gram is None:
            self.gram = rows.new_zeros(rows.shape[1], rows.shape[1])
        add_gram_(self.gram, rows)
        self.num_rows += len(rows)
        self.num_tokens += mixer.count(inputs)

    def grams_of(self, inputs: Float[Tensor, "samples tokens in_features"]) -> Float[Tensor, "samples tokens tokens"]:
        """Token Gram of this batch, computed by the first layer that asks."""
        if self.token_gram is None:
            self.token_gram = token_gram(inputs.float())
        return self.token_gram

    @property
    def input_gram(self) -> Float[Tensor, "in_features in_features"] | None:
        """A, or None where no batch entered it."""
        return None if self.gram is None or not self.num_tokens else completed(self.gram) / self.num_tokens


@dataclass
class LayerSums:
    """Sums of one layer. `first` and `second` are sums of the gradients of the two halves of the samples."""

    spec: LayerSpec
    shared: InputSums
    first: Float[Tensor, "out_features in_features"]
    second: Float[Tensor, "out_features in_features"]
    norms: dict[str, list[Float[Tensor, " samples"]]] = field(default_factory=lambda: {"empirical": [], "true": []})
    gram: Float[Tensor, "out_features out_features"] | None = None
    gram_samples: int = 0

    @classmethod
    def empty(cls, spec: LayerSpec, device: torch.device) -> LayerSums:
        """Sums over no sample yet, with an input of its own."""
        first, second = (torch.zeros(spec.out_features, spec.in_features, device=device) for _ in range(2))
        return cls(spec, InputSums(), first, second)

    def add(
        self,
        inputs: Float[Tensor, "samples tokens in_features"],
        gradient: Float[Tensor, "samples tokens out_features"],
        batch: CalibrationBatch,
        labels: str,
        mixer: TokenMixer | None,
    ) -> None:
        """Add one batch.

        Args:
            inputs: x of every sample.
            gradient: g of every sample, each by its own loss.
            batch: Which samples of the batch are of the first half.
            labels: `empirical` adds to G and to the empirical norms, `true` to the norms at sampled labels only.
            mixer: Rows that enter B; None where this batch or these labels do not.
        """
        # Sums are in float32 whatever the model computes in; no copy is made of what already is.
        inputs, gradient = inputs.float(), gradient.float()
        compact = _compacted(inputs, gradient)
        if compact is None:
            norms = self._add_gradients(inputs, gradient, batch, self.shared, labels)
        else:
            inputs, gradient = compact
            norms = self._add_gradients(inputs, gradient, batch, InputSums(1), labels)
        self.norms[labels].append(norms)
        if mixer is not None:
            rows = mixer.rows(gradient)
            if self.gram is None:
                self.gram = rows.new_zeros(rows.shape[1], rows.shape[1])
            add_gram_(self.gram, rows)
            self.gram_samples += len(gradient)

    def _add_gradients(
        self,
        inputs: Float[Tensor, "samples tokens in_features"],
        gradient: Float[Tensor, "samples tokens out_features"],
        batch: CalibrationBatch,
        shared: InputSums,
        labels: str,
    ) -> Float[Tensor, " samples"]:
        """Add to G where the labels are the data's own; return the squared norm of each sample's gradient."""
        sizes = (gradient.shape[1], self.spec.in_features, self.spec.out_features, shared.num_sharing)
        if labels == "empirical":
            halves = (slice(None, batch.num_first), slice(batch.num_first, None))
            parts = ([inputs[half] for half in halves], [gradient[half] for half in halves])
            if is_direct_cheaper(*sizes):
                return add_gradients_with_norms_((self.first, self.second), *parts)
            add_gradients_((self.first, self.second), *parts)
        elif not is_ghost_cheaper_alone(*sizes):
            return add_gradients_with_norms_((torch.zeros_like(self.first),), (inputs,), (gradient,))
        return ghost_norms(shared.grams_of(inputs), gradient)

    @property
    def output_gram(self) -> Float[Tensor, "out_features out_features"] | None:
        """B, or None where no batch entered it."""
        return None if self.gram is None or not self.gram_samples else completed(self.gram) / self.gram_samples


def _compacted(
    inputs: Float[Tensor, "samples tokens in_features"], gradient: Float[Tensor, "samples tokens out_features"]
) -> tuple[Float[Tensor, "samples kept in_features"], Float[Tensor, "samples kept out_features"]] | None:
    """Only the tokens that have a gradient, where these are at most half; None otherwise.

    A model that classifies by one token leaves all others of its last block without a gradient; exact zeros add
    nothing to G, to a norm or to B.
    """
    num_tokens = gradient.shape[1]
    if num_tokens < 2:
        return None
    looks_empty = (gradient[..., :_PROBED_COLUMNS] == 0).all(dim=-1)
    if looks_empty.sum().item() * 2 < looks_empty.numel():
        return None
    has_gradient = (gradient != 0).any(dim=-1)
    kept = max(1, int(has_gradient.sum(dim=1).max().item()))
    if kept * 2 > num_tokens:
        return None
    order = has_gradient.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :kept, None]
    return (
        inputs.gather(1, order.expand(-1, -1, inputs.shape[2])),
        gradient.gather(1, order.expand(-1, -1, gradient.shape[2])),
    )
