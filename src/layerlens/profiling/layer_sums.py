"""Statistics of one layer in feature space: two halves of G [out_features, in_features] and the Grams A and B.

Takes any number of tokens; memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerlens.artifacts.layers import LayerSpec
from layerlens.curves.cross_fitted_gain import cross_fitted_gain
from layerlens.linalg.cholesky_whitening import Whitener, damped_whitener
from layerlens.linalg.gram import GramSum
from layerlens.linalg.kronecker_sketch import SketchSide, sketches
from layerlens.linalg.per_sample_norms import (
    add_gradients_,
    add_gradients_with_norms_,
    ghost_norms,
    is_direct_cheaper,
    is_ghost_cheaper_alone,
    token_gram,
)
from layerlens.linalg.sparse_tokens import at_tokens, few_with_value
from layerlens.linalg.token_mixing import TokenMixer
from layerlens.profiling.layer_statistics import GradientProducts, LayerStatistics, SharedInput
from layerlens.profiling.spaces import SKETCHED_SAMPLES, Tokens

#: Rows of G whose squares are summed at once.
_ROWS_AT_ONCE = 256


class InputSums(SharedInput):
    """The sum for A, the token Gram of the batch at hand, and the whitener of A once asked for."""

    def __init__(self, in_features: int, num_gram_rows: int) -> None:
        super().__init__()
        self.gram = GramSum(in_features, num_gram_rows)
        self.side = SketchSide(in_features, seed=0)
        self._token_gram: Float[Tensor, "samples tokens tokens"] | None = None
        self._projected: Float[Tensor, "samples tokens k"] | None = None
        self._whitener: Whitener | None = None

    def add(self, inputs: Float[Tensor, "samples tokens in_features"], mixer: TokenMixer | None, first_sample: int) -> None:
        self.first_sample = first_sample
        if mixer is not None:
            self.gram.add(mixer.rows(inputs.float()))
            self.num_rows = self.gram.num_rows
            self.num_tokens += mixer.count(inputs)

    def absorb(self, other: InputSums) -> None:
        """Add what another process found of later samples."""
        self.gram.absorb(other.gram)
        self.num_rows, self.num_tokens = self.gram.num_rows, self.num_tokens + other.num_tokens

    def end_batch(self) -> None:
        self._token_gram = self._projected = None

    def token_gram(self, inputs: Float[Tensor, "samples tokens in_features"]) -> Float[Tensor, "samples tokens tokens"]:
        """Token Gram of this batch, computed by the first layer that asks."""
        if self._token_gram is None:
            self._token_gram = token_gram(inputs.float())
        return self._token_gram

    def projected(self, inputs: Float[Tensor, "samples tokens in_features"], chosen: slice) -> Float[Tensor, "chosen tokens k"]:
        """Inputs of the chosen samples of this batch, projected for the sketch by the first layer that asks."""
        if self._projected is None:
            self._projected = self.side(inputs[chosen].float())
        return self._projected

    def whitener(self, damping: float, *, releases: bool) -> Whitener | None:
        """Whitens by A; made by the first layer that asks and kept until `forget`. None where A is zero."""
        if self._whitener is None and self.num_tokens:
            self._whitener = damped_whitener(self.gram, self.num_tokens, damping, releases=releases)
        return self._whitener

    def forget(self, *, releases: bool) -> None:
        self._whitener = None
        if releases:
            self.gram.clear()

    @property
    def input_gram(self) -> Float[Tensor, "in_features in_features"] | None:
        return self.gram.full() / self.num_tokens if self.num_tokens else None


class LayerSums(LayerStatistics):
    """Sums over samples. `first` and `second` are sums of the gradients of the two halves of the samples."""

    shared: InputSums

    def __init__(self, spec: LayerSpec, shared: InputSums, device: torch.device, tokens: Tokens) -> None:
        super().__init__(spec)
        self.shared = shared
        self.first, self.second = (torch.zeros(spec.out_features, spec.in_features, device=device) for _ in range(2))
        self.gram = GramSum(spec.out_features, tokens.num_gram_rows)
        self.gram_samples = 0
        self._side = SketchSide(spec.out_features, seed=1)
        self._sketches: list[Float[Tensor, "samples numbers"]] = []
        self._sketched: list[int] = []
        self._sketch_step = max(1, tokens.num_samples // SKETCHED_SAMPLES)

    def add(
        self,
        inputs: Float[Tensor, "samples tokens in_features"],
        gradient: Float[Tensor, "samples tokens out_features"],
        num_first: int,
        labels: str,
        mixer: TokenMixer | None,
    ) -> None:
        # Sums are in float32 whatever the model computes in; no copy is made of what already is.
        inputs, gradient = inputs.float(), gradient.float()
        num_tokens, positions = gradient.shape[1], few_with_value(gradient)
        if labels == "empirical":
            self._add_sketches(inputs, gradient, positions)
        if positions is not None:
            # A model that classifies by one token leaves all others of its last block without a gradient; exact zeros
            # add nothing to G, to a norm or to B.
            inputs, gradient = at_tokens(inputs, positions), at_tokens(gradient, positions)
        self.norms[labels].append(self._add_gradients(inputs, gradient, num_first, labels, is_whole=positions is None))
        if mixer is not None:
            taken, mixed = mixer.split(gradient, num_tokens, positions)
            self.gram.add(gradient.flatten(0, 1) if bool(taken.all()) else gradient[taken])
            if mixed is not None:
                self.gram.add(mixed)
            self.gram_samples += len(gradient)

    def _add_sketches(
        self,
        inputs: Float[Tensor, "samples tokens in_features"],
        gradient: Float[Tensor, "samples tokens out_features"],
        positions: Int[Tensor, "samples kept"] | None,
    ) -> None:
        """Sketch every so many samples, counted over the whole pass so that parts of a batch make no difference."""
        chosen = slice(-self.shared.first_sample % self._sketch_step, None, self._sketch_step)
        self._sketched += range(self.shared.first_sample, self.shared.first_sample + len(inputs))[chosen]
        projected, gradient = self.shared.projected(inputs, chosen), gradient[chosen]
        if positions is not None:
            projected, gradient = at_tokens(projected, positions[chosen]), at_tokens(gradient, positions[chosen])
        self._sketches.append(sketches(self._side(gradient), projected))

    def _add_gradients(
        self,
        inputs: Float[Tensor, "samples tokens in_features"],
        gradient: Float[Tensor, "samples tokens out_features"],
        num_first: int,
        labels: str,
        *,
        is_whole: bool,
    ) -> Float[Tensor, " samples"]:
        """Add to G where the labels are the data's own; return the squared norm of each sample's gradient."""
        num_sharing = self.shared.num_sharing if is_whole else 1
        sizes = (gradient.shape[1], self.spec.in_features, self.spec.out_features, num_sharing)
        if labels == "empirical":
            halves = (slice(None, num_first), slice(num_first, None))
            parts = ([inputs[half] for half in halves], [gradient[half] for half in halves])
            if is_direct_cheaper(*sizes):
                return add_gradients_with_norms_((self.first, self.second), *parts)
            add_gradients_((self.first, self.second), *parts)
        elif not is_ghost_cheaper_alone(*sizes):
            return add_gradients_with_norms_((torch.zeros_like(self.first),), (inputs,), (gradient,))
        return ghost_norms(self.shared.token_gram(inputs) if is_whole else token_gram(inputs), gradient)

    def absorb(self, other: LayerSums) -> None:
        """Add what another process found of later samples; the shared input is added apart, once."""
        self.first += other.first
        self.second += other.second
        self.gram.absorb(other.gram)
        self.gram_samples += other.gram_samples
        self._sketches += other._sketches
        self._sketched += other._sketched
        for labels, parts in other.norms.items():
            self.norms[labels] += parts

    def add_zero(self, num_samples: int, labels: str, *, fills_gram: bool) -> None:
        self.norms[labels].append(self.first.new_zeros(num_samples))
        self.gram_samples += num_samples if fills_gram else 0

    def mean_gradient_energy(self, num_samples: int) -> float:
        # Row by row, so that no third matrix of this size is made.
        total = sum(
            (first + second).double().square().sum().item()
            for first, second in zip(self.first.split(_ROWS_AT_ONCE), self.second.split(_ROWS_AT_ONCE), strict=True)
        )
        return float(total) / num_samples**2

    def products(self, num_samples: int) -> GradientProducts:
        step = self._sketch_step
        positions = torch.arange(0, num_samples, step)
        norms = torch.cat(self.norms["empirical"]).double()[::step]
        if not self._sketches:
            return GradientProducts(positions, norms.new_zeros(len(positions), len(positions)), torch.zeros_like(norms))
        found = torch.cat(self._sketches).double()
        # Samples that do not reach the layer have no sketch, and no gradient either.
        sketched = found.new_zeros(len(positions), found.shape[1])
        sketched[torch.tensor(self._sketched, device=found.device) // step] = found
        total = self._side.of_columns(self.shared.side(self.first) + self.shared.side(self.second)).flatten().double()
        # Norms are known exactly, so only the angles are taken from the sketches.
        sketched = _with_norms(sketched, norms)
        total = _with_norms(total[None], total.new_tensor([self.mean_gradient_energy(num_samples) * num_samples**2]))[0]
        return GradientProducts(positions, sketched @ sketched.t(), sketched @ total)

    def mean_gradients(
        self, half_sizes: tuple[int, int]
    ) -> tuple[Float[Tensor, "out_features in_features"], Float[Tensor, "out_features in_features"]]:
        return self.first / max(1, half_sizes[0]), self.second / max(1, half_sizes[1])

    @property
    def output_gram(self) -> Float[Tensor, "out_features out_features"] | None:
        return self.gram.full() / self.gram_samples if self.gram.num_rows else None

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
        first, second = (half if releases else half.clone() for half in (self.first, self.second))
        halves = [first, second]
        if not is_cross_fitted:
            first += second
            halves, half_sizes, second = [first], (sum(half_sizes), 0), first
        for half, size in zip(halves, half_sizes, strict=False):
            half /= max(1, size)
        if damping is not None and not self._whiten_(halves, damping, releases=releases):
            return np.zeros(max_rank)
        if releases:
            self.first = self.second = self.first.new_zeros(0, self.spec.in_features)
        return cross_fitted_gain(first, second, max_rank, num_terms=num_terms)

    def _whiten_(self, halves: Sequence[Float[Tensor, "out_features in_features"]], damping: float, *, releases: bool) -> bool:
        """Whiten gradients in place; false where a Gram is zero."""
        inputs = self.shared.whitener(damping, releases=releases)
        outputs = damped_whitener(self.gram, self.gram_samples, damping, releases=releases) if self.gram_samples else None
        if inputs is None or outputs is None:
            return False
        for half in halves:
            inputs.apply_(half)
            outputs.apply_(half.t())
        return True


def _with_norms(rows: Float[Tensor, "rows numbers"], squares: Float[Tensor, " rows"]) -> Float[Tensor, "rows numbers"]:
    """Rows scaled to the squared norms given; zero stays zero."""
    return rows * (squares / rows.square().sum(dim=1).clamp_min(torch.finfo(rows.dtype).tiny)).sqrt()[:, None]
