"""What every layer's statistics can do, whichever space they are kept in (`spaces.py`).

For a sample's loss ℓ in nats and output gradients g_t = ∂ℓ/∂y_t (DESIGN.md section 3):

    G = mean over samples of Σ_t g_t x_tᵀ        fisher = mean over samples of ‖Σ_t g_t x_tᵀ‖²_F
    A = mean over unpadded tokens of x_t x_tᵀ    B = mean over samples of Σ_t g_t g_tᵀ
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from layerlens.artifacts.layers import LayerSpec
from layerlens.linalg.token_mixing import TokenMixer


@dataclass(frozen=True)
class GradientProducts:
    """Inner products of per-sample gradients D_i, exact or unbiased, for all samples or for some.

    Attributes:
        positions: Which samples, by their place in the pass.
        between: ⟨D_i, D_j⟩ of every two of them; the diagonal is exact.
        with_all: ⟨D_i, Σ_j D_j⟩ of each of them with all samples of the pass.
    """

    positions: Int[Tensor, " some"]
    between: Float[Tensor, "some some"]
    with_all: Float[Tensor, " some"]


class SharedInput(ABC):
    """What layers that read the same input share.

    Attributes:
        num_sharing: Layers that share it.
        num_tokens: Unpadded tokens behind A.
        num_rows: Rows that A was summed from.
        first_sample: Samples that came before those at hand.
    """

    def __init__(self) -> None:
        self.first_sample = 0
        self.num_sharing = 0
        self.num_tokens = 0
        self.num_rows = 0

    @abstractmethod
    def add(self, inputs: Float[Tensor, "samples tokens in_features"], mixer: TokenMixer | None, first_sample: int) -> None:
        """Take the inputs of a forward pass.

        Args:
            inputs: x of every sample.
            mixer: Rows that enter A; None where this batch does not.
            first_sample: Samples that came before these.
        """

    @abstractmethod
    def end_batch(self) -> None:
        """Let go of what only the batch at hand needed."""

    @abstractmethod
    def forget(self, *, releases: bool) -> None:
        """Let go of what whitening by A needed; or of everything."""

    @property
    @abstractmethod
    def input_gram(self) -> Float[Tensor, "in_features in_features"] | None:
        """A, written out; None where no batch entered it."""


class LayerStatistics(ABC):
    """Statistics of one layer over the pass.

    Attributes:
        spec: The layer.
        shared: What it shares with the layers that read the same input.
        norms: By labels (`empirical`, `true`), squared norms of the per-sample gradients, batch after batch.
    """

    shared: SharedInput

    def __init__(self, spec: LayerSpec) -> None:
        self.spec = spec
        self.norms: dict[str, list[Float[Tensor, " samples"]]] = {"empirical": [], "true": []}

    def share(self, shared: SharedInput) -> None:
        """Read that input; all layers that read it are kept in the same space."""
        self.shared = shared
        shared.num_sharing += 1

    @abstractmethod
    def add(
        self,
        inputs: Float[Tensor, "samples tokens in_features"],
        gradient: Float[Tensor, "samples tokens out_features"],
        num_first: int,
        labels: str,
        mixer: TokenMixer | None,
    ) -> None:
        """Add a batch, or a part of one.

        Args:
            inputs: x of every sample, as `shared` was given them.
            gradient: g of every sample, each by its own loss.
            num_first: Samples, from the front, of the first half.
            labels: `empirical` adds to G and to the empirical norms, `true` to the norms at sampled labels only.
            mixer: Rows that enter B; None where this batch or these labels do not.
        """

    @abstractmethod
    def add_zero(self, num_samples: int, labels: str, *, fills_gram: bool) -> None:
        """Add samples whose loss does not depend on the layer.

        Args:
            num_samples: How many.
            labels: Whose norms they are added to.
            fills_gram: B, a mean over samples, counts them.
        """

    @abstractmethod
    def mean_gradient_energy(self, num_samples: int) -> float:
        """‖G‖²_F of the mean gradient over all samples, not debiased; summed in float64."""

    @abstractmethod
    def mean_gradients(
        self, half_sizes: tuple[int, int]
    ) -> tuple[Float[Tensor, "out_features in_features"], Float[Tensor, "out_features in_features"]]:
        """Mean per-sample gradient of each half, written out."""

    @property
    @abstractmethod
    def output_gram(self) -> Float[Tensor, "out_features out_features"] | None:
        """B, written out; None where no batch entered it."""

    @abstractmethod
    def gain_curve(
        self,
        half_sizes: tuple[int, int],
        *,
        damping: float | None,
        max_rank: int,
        num_terms: float,
        is_cross_fitted: bool = True,
        releases: bool = False,
    ) -> Float[np.ndarray, " ranks"]:
        """Cross-fitted gain in nats at rank 1 … max_rank; zero without a gradient or without Grams.

        Args:
            half_sizes: Samples of the two halves.
            damping: Ridge on each Gram as a share of its mean eigenvalue; none leaves the gradient as it is.
            max_rank: Longest curve.
            num_terms: Log-likelihoods that a sample's loss is the mean of.
            is_cross_fitted: Off, directions are scored on the samples that they come from.
            releases: The sums may be overwritten and let go; nothing can be asked of this layer afterwards.
        """

    @abstractmethod
    def products(self, num_samples: int) -> GradientProducts:
        """Inner products of the per-sample gradients at the data's labels.

        Args:
            num_samples: All samples of the pass.
        """
