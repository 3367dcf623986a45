"""Moments of the matrices outside the blocks: the word embedding, and a language model's output.

table   y = row of token i. With ĝ = the sum of a sample's gradients at all places of token i, an error δ_i of row i costs
        ½ Σ_i w_i δ_iᵀ B δ_i: B = Σ ĝ ĝᵀ / predictions, w_i = row i's share of Σ ‖ĝ‖²
output  z = W h, p = softmax(z): an error of row i alone costs ½ mean(p_i (1 − p_i) (δ_iᵀ h)²), the exact curvature of the
        cross entropy, taken as ½ d_i δ_iᵀ A δ_i with d_i = mean p_i (1 − p_i) and A = mean h hᵀ

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
from layerlens.compressing.moment_sums import MomentSum
from layerlens.data.example import Batch
from layerlens.data.padding import IGNORED_LABEL

#: Rows of a softmax that are in memory together.
_SOFTMAX_ROWS = 64


class TableMoments:
    """What the pass finds out about an embedding table.

    Attributes:
        gradients: Of ĝ, one row for each token of a sample.
        energies: Σ ‖ĝ‖² of each row of the table.
        counts: Samples that used each row.
    """

    def __init__(self, num_rows: int, features: int) -> None:
        self.gradients = MomentSum(features, is_full=True)
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
        self.gradients.add(summed[~is_held], summed[is_held], (*tokens.seed, 0))
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
        inputs: Of h at the tokens that predict.
        row_sums: Σ over these tokens of p_i (1 − p_i).
        joint: Σ ‖h‖² Σ_i p_i (1 − p_i).
    """

    def __init__(self, num_rows: int, features: int) -> None:
        self.inputs = MomentSum(features, is_full=True)
        self.row_sums = torch.zeros(num_rows, dtype=torch.float64)
        self.joint = 0.0

    def add(
        self,
        inputs: Float[Tensor, "samples tokens features"],
        squares: Float[Tensor, " rows"],
        row_energies: Float[Tensor, "samples tokens"],
        tokens: Tokens,
    ) -> None:
        """Take a part in.

        Args:
            inputs: h.
            squares: Σ over the tokens that predict of the diagonal of each one's curvature.
            row_energies: The sum of that diagonal for each token; zero where nothing is predicted.
            tokens: Of these, the tokens that predict.
        """
        self.inputs.add(*tokens.split(inputs), (*tokens.seed, 0))
        self.row_sums += squares.double()
        self.joint += float((row_energies * inputs.square().sum(-1)).sum(dtype=torch.float64))

    def row_weights(self) -> Float[Tensor, " rows"]:
        """d, at the size that gives B ⊗ A the trace of the exact curvature."""
        trace = float(self.row_sums.sum()) * self.inputs.square_sum
        count = self.inputs.num_rows
        return (self.row_sums * (self.joint / trace if trace > 0 else 0.0)).float() if count else self.row_sums.float()


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
            squares, energies = softmax_curvature(output, predicts)
        elif self._gradient is not None:
            # Logits that were scaled or capped: the gradient's own squares, at the labels that were drawn.
            gradient = self._gradient * predicts[..., None]
            squares, energies = gradient.square().sum((0, 1)), gradient.square().sum(-1)
        else:
            return
        self.moments.add(inputs, squares, energies, own)
        self._call = self._gradient = None


def predicting_tokens(batch: Batch) -> Bool[Tensor, "samples tokens"]:
    """Tokens at which a language model predicts the next one."""
    labels = batch["labels"]
    predicts = torch.zeros_like(labels, dtype=torch.bool)
    predicts[:, :-1] = labels[:, 1:] != IGNORED_LABEL
    return predicts


def softmax_curvature(
    logits: Float[Tensor, "samples tokens rows"], predicts: Bool[Tensor, "samples tokens"]
) -> tuple[Float[Tensor, " rows"], Float[Tensor, "samples tokens"]]:
    """Σ over predicting tokens of p_i (1 − p_i), and each token's sum of it over i; a few tokens at a time in float32."""
    squares, energies = logits.new_zeros(logits.shape[-1], dtype=torch.float32), torch.zeros(predicts.shape)
    places = predicts.nonzero()
    for start in range(0, len(places), _SOFTMAX_ROWS):
        samples, tokens = places[start : start + _SOFTMAX_ROWS].T
        p = logits[samples, tokens].float().softmax(-1)
        curvature = p * (1.0 - p)
        squares += curvature.sum(0)
        energies[samples, tokens] = curvature.sum(-1)
    return squares, energies
