"""Moments of the matrices outside the blocks: the word embedding, and a language model's output.

table   y = row of token i. With ĝ = the sum of a sample's gradients at all places of token i, an error δ_i of row i costs
        ½ Σ_i w_i δ_iᵀ B δ_i: B = Σ ĝ ĝᵀ / predictions, w_i = row i's share of Σ ‖ĝ‖²
output  z = W h, p = softmax(z): an error of row i alone costs ½ mean(p_i (1 − p_i) (δ_iᵀ h)²), the exact curvature of the
        cross entropy, taken by its marginals as ½ d_i δ_iᵀ A δ_i: with s = Σ_i p_i (1 − p_i) of a token,
        d_i = mean ‖h‖² p_i (1 − p_i) and A = Σ s h hᵀ / Σ s ‖h‖²

Rows are priced one by one, because errors of different rows are independent. Rows that no calibration token used get, together,
the share of the tokens that were seen only once: so likely is a new text's next token to be one of them (Good, 1953).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from layerlens.compressing.calibration_samples import Tokens
from layerlens.compressing.moment_sums import FittedSum, HeldRoot, squares
from layerlens.data.example import Batch
from layerlens.data.padding import IGNORED_LABEL

#: Rows of a softmax that are in memory together.
_SOFTMAX_ROWS = 64


class TableMoments:
    """What the pass finds out about an embedding table.

    Attributes:
        fitted: Of ĝ, one row for each token of a sample.
        held: The same of held-out samples.
        square_sum: Σ ‖ĝ‖² over all samples.
        energies: Σ ‖ĝ‖² of each row of the table.
        counts: Samples that used each row.
    """

    def __init__(self, num_rows: int, features: int) -> None:
        self.fitted, self.held, self.square_sum = FittedSum(features, is_full=True), HeldRoot(features), 0.0
        self.energies = torch.zeros(num_rows, dtype=torch.float64)
        self.counts = torch.zeros(num_rows, dtype=torch.long)

    def add(self, ids: Int[Tensor, "samples tokens"], gradient: Float[Tensor, "samples tokens features"], tokens: Tokens) -> None:
        """Take the gradients by the table's output of a part."""
        mask = tokens.mask_of(gradient)
        samples = torch.arange(len(ids))[:, None].expand_as(ids)
        wanted = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        keys, place = torch.unique(samples[wanted] * len(self.counts) + ids[wanted], return_inverse=True)
        summed = gradient.new_zeros(len(keys), gradient.shape[-1]).index_add_(0, place, gradient[wanted])
        rows, is_held = keys % len(self.counts), tokens.is_held[keys // len(self.counts)]
        self.fitted.add(summed[~is_held])
        self.held.add(summed[is_held], (*tokens.seed, 0))
        self.square_sum += squares(summed)
        self.energies.index_add_(0, rows, summed.double().square().sum(-1))
        self.counts.index_add_(0, rows, torch.ones_like(rows))

    def row_weights(self) -> Float[Tensor, " rows"]:
        """w, summing to 1."""
        total = float(self.energies.sum())
        if total == 0:
            return torch.zeros(len(self.counts))
        return _with_unseen(self.energies / total, self.counts)

    def row_shares(self) -> Float[Tensor, " rows"]:
        """How often each row is used, summing to 1."""
        return _with_unseen(self.counts.double() / max(1, int(self.counts.sum())), self.counts)


def _with_unseen(shares: Float[Tensor, " rows"], counts: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    unseen = counts == 0
    if not bool(unseen.any()):
        return shares.float()
    unseen_share = float((counts == 1).sum()) / max(1, int(counts.sum()))
    return torch.where(unseen, unseen_share / int(unseen.sum()), shares * (1.0 - unseen_share)).float()


class OutputMoments:
    """What the pass finds out about a language model's output matrix.

    Args:
        num_rows: Rows of the matrix: the vocabulary.
        features: Width of the hidden state.

    Attributes:
        fitted: Σ s h hᵀ of the samples that are fitted to.
        held: The same of held-out samples.
        inputs: Root of the held-out Σ h hᵀ.
        row_sums: Σ ‖h‖² p_i (1 − p_i).
        num_tokens: Tokens that predict.
    """

    def __init__(self, num_rows: int, features: int) -> None:
        self.fitted, self.held, self.inputs = FittedSum(features, is_full=True), HeldRoot(features), HeldRoot(features)
        self.row_sums = torch.zeros(num_rows, dtype=torch.float64)
        self.num_tokens = 0

    def add(
        self,
        inputs: Float[Tensor, "samples tokens features"],
        row_sums: Float[Tensor, " rows"],
        energies: Float[Tensor, "samples tokens"],
        tokens: Tokens,
    ) -> None:
        """Take a part in.

        Args:
            inputs: h.
            row_sums: Σ ‖h‖² p_i (1 − p_i) over the tokens that predict.
            energies: s of each token; zero where nothing is predicted.
            tokens: Of these, the tokens that predict.
        """
        fitted, held = tokens.split(inputs * energies.sqrt()[..., None])
        self.fitted.add(fitted)
        self.held.add(held, (*tokens.seed, 0))
        self.inputs.add(tokens.split(inputs)[1], (*tokens.seed, 1))
        self.row_sums += row_sums.double()
        self.num_tokens += len(fitted) + len(held)

    def row_weights(self) -> Float[Tensor, " rows"]:
        """d."""
        return (self.row_sums / max(1, self.num_tokens)).float()


class OutputCapture:
    """Takes the moments of a language model's output matrix from its calls.

    Args:
        module: The output matrix's module, hidden state to logits.
        moments: Where they go.
    """

    def __init__(self, module: nn.Module, moments: OutputMoments) -> None:
        self.moments, self._module = moments, module
        self._call: tuple[Tensor, Tensor] | None = None
        self._gradient: Tensor | None = None

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """The hook on, until the context ends."""
        handle = self._module.register_forward_hook(self._on_forward)
        try:
            yield
        finally:
            handle.remove()

    def _on_forward(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self._call, self._gradient = (args[0].detach(), output.detach()), None
        if output.requires_grad:
            output.register_hook(self._on_gradient)

    def _on_gradient(self, gradient: Tensor) -> None:
        self._gradient = gradient.detach()

    def take(self, logits: Float[Tensor, "samples tokens rows"], batch: Batch, tokens: Tokens) -> None:
        """Take in the part that has just run forward and backward, by the model's own logits where these are what it gave."""
        if self._call is None:
            return
        inputs, output = self._call
        predicts = predicting_tokens(batch)
        own = Tokens(predicts, tokens.is_held, tokens.seed)
        if output.shape == logits.shape and output.data_ptr() == logits.data_ptr():
            row_sums, energies = softmax_curvature(output, inputs.square().sum(-1), predicts)
        elif self._gradient is not None:
            # Logits that were scaled or capped: the gradient's own squares, at the labels that were drawn.
            gradient = self._gradient * predicts[..., None]
            own_squares = gradient.square()
            row_sums = torch.einsum("str,st->r", own_squares, inputs.square().sum(-1))
            energies = own_squares.sum(-1)
        else:
            return
        self.moments.add(inputs, row_sums, energies, own)
        self._call = self._gradient = None


def predicting_tokens(batch: Batch) -> Bool[Tensor, "samples tokens"]:
    """Tokens at which a language model predicts the next one."""
    labels = batch["labels"]
    predicts = torch.zeros_like(labels, dtype=torch.bool)
    predicts[:, :-1] = labels[:, 1:] != IGNORED_LABEL
    return predicts


def softmax_curvature(
    logits: Float[Tensor, "samples tokens rows"],
    sizes: Float[Tensor, "samples tokens"],
    predicts: Bool[Tensor, "samples tokens"],
) -> tuple[Float[Tensor, " rows"], Float[Tensor, "samples tokens"]]:
    """Σ over predicting tokens of size · p_i (1 − p_i), and each token's sum of p_i (1 − p_i); a few tokens at a time."""
    row_sums, energies = torch.zeros(logits.shape[-1]), torch.zeros(predicts.shape)
    places = predicts.nonzero()
    for start in range(0, len(places), _SOFTMAX_ROWS):
        samples, tokens = places[start : start + _SOFTMAX_ROWS].T
        p = logits[samples, tokens].float().softmax(-1)
        curvature = p * (1.0 - p)
        row_sums += sizes[samples, tokens] @ curvature
        energies[samples, tokens] = curvature.sum(-1)
    return row_sums, energies
