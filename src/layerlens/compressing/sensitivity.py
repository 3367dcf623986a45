"""What an error in one matrix costs: ½ tr(B E A Eᵀ) nats for each prediction, with A and B to fit by and thin roots to price by.

K-FAC with expansion: with y_t = W x_t, g_t the gradient of the sum of a sample's negative log-likelihoods at labels drawn from
the model, and n predictions in all,

    KL for each prediction ≈ ½ tr(B ΔW Ã ΔWᵀ) + ½ tr(B̄ ΔW M ΔWᵀ)

    Ã = mean over tokens of x̃ x̃ᵀ        B ∝ Σ_t g_t g_tᵀ                 tokens of a sample act each for itself: expansion
    M = mean over samples of m mᵀ        B̄ ∝ Σ over samples of ĝ ĝᵀ       they act as one, ĝ = Σ_t g_t:         reduction

with x_t = m + x̃_t (`input_moments`). A prediction is a token of a language model, a sample of a classifier or regression, the
start or end of an answer. The sizes of B and B̄ are such that both traces together are that of the exact Fisher matrix,
Σ over samples of ‖Σ_t g_t x_tᵀ‖² / n, in the proportion of their own: an error without any preferred direction is priced
rightly in expectation. Codes and factors are fitted with B and the mean of Ã and M, weighted as they count.

Sources: Martens, Grosse (2015), arXiv 1503.05671; expansion and reduction: Eschenhagen et al. (2023), arXiv 2311.00636.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.compressing.input_moments import SeenInput
from layerlens.compressing.moment_capture import LayerMoments
from layerlens.compressing.outside_moments import OutputMoments, TableMoments


@dataclass(frozen=True)
class PriceTerm:
    """A cost ½ ‖L E Rᵀ‖² of an error E.

    Attributes:
        left: L with Lᵀ L ≈ B; or, as a vector, the diagonal of B, where rows are priced one by one.
        right: R with Rᵀ R ≈ A.
    """

    left: Float[Tensor, "left_rows out_features"] | Float[Tensor, " out_features"]
    right: Float[Tensor, "right_rows in_features"]


@dataclass(frozen=True)
class Sensitivity:
    """What errors of one matrix [out_features in_features] cost.

    Attributes:
        input_gram: A, to fit codes and factors by.
        output_gram: B, or its diagonal, to fit factors by.
        terms: Costs that add up, from held-out samples.
        seen_rows: How often each row of a table is used; none where every row is used each time.
        inputs: Thin root of the held-out inputs' moments, for the error of the outputs; none for a table.
    """

    input_gram: Float[Tensor, "in_features in_features"]
    output_gram: Float[Tensor, "out_features out_features"] | Float[Tensor, " out_features"]
    terms: tuple[PriceTerm, ...]
    seen_rows: Float[Tensor, " out_features"] | None = None
    inputs: Float[Tensor, "right_rows in_features"] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether the loss does not depend on the matrix at all."""
        return not any(bool(term.left.any()) and bool(term.right.any()) for term in self.terms)


def layer_sensitivity(moments: LayerMoments, seen: SeenInput, num_predictions: float) -> Sensitivity:
    """Of a layer that reads an input; the sums of its gradients are given away."""
    parts = moments.within_trace + moments.means_trace
    # What the two parts have in common, in expectation over errors without a direction.
    common = max(0.0, moments.fisher_trace) / (parts * num_predictions) if parts > 0 else 0.0
    within = moments.within_trace * common / seen.within_trace if seen.within_trace > 0 else 0.0
    means = moments.means_trace * common / seen.means_trace if seen.means_trace > 0 else 0.0
    terms = [PriceTerm(moments.gradients.sized_root(within), seen.within_root)]
    if means > 0:
        terms.append(PriceTerm(moments.sums.root(means), seen.means_root))
    return Sensitivity(
        input_gram=seen.gram(within, means),
        output_gram=moments.gradients.sized_moments(within),
        terms=tuple(terms),
        inputs=seen.root,
    )


def idle_sensitivity(out_features: int, in_features: int) -> Sensitivity:
    """Of a matrix that no sample's loss depends on."""
    term = PriceTerm(torch.zeros(out_features), torch.zeros(1, in_features))
    return Sensitivity(torch.zeros(in_features, in_features), torch.zeros(out_features), (term,))


def table_sensitivity(moments: TableMoments, num_predictions: float) -> Sensitivity:
    """Of an embedding table: rows weigh by their gradients, and B takes the place of the inputs' Gram."""
    weights = moments.row_weights()
    right = moments.gradients.root(num_predictions)
    return Sensitivity(
        input_gram=moments.gradients.moments(num_predictions),
        output_gram=weights,
        terms=(PriceTerm(weights, right),),
        seen_rows=moments.row_shares(),
    )


def output_sensitivity(moments: OutputMoments) -> Sensitivity:
    """Of a language model's output matrix."""
    num_tokens = max(1, moments.inputs.num_rows)
    weights = moments.row_weights()
    right = moments.inputs.root(num_tokens)
    return Sensitivity(
        input_gram=moments.inputs.moments(num_tokens),
        output_gram=weights,
        terms=(PriceTerm(weights, right),),
        inputs=right,
    )


def tied_sensitivity(table: Sensitivity, output: Sensitivity) -> Sensitivity:
    """Of a table that is the output matrix too: the sum of both costs.

    Row i costs ½ δ_iᵀ (w_i B + d_i A) δ_i. To fit by, one Gram serves all rows: the mean of these.
    """
    grams, diagonals = (table.input_gram, output.input_gram), (table.output_gram, output.output_gram)
    gram = sum((gram * diagonal.mean() for gram, diagonal in zip(grams, diagonals, strict=True)), torch.zeros(()))
    rows = sum((gram.trace() * diagonal for gram, diagonal in zip(grams, diagonals, strict=True)), torch.zeros(()))
    trace = float(gram.trace())
    return replace(table, input_gram=gram, output_gram=rows / trace if trace > 0 else rows, terms=table.terms + output.terms)


def sensitivity_tensors(sensitivity: Sensitivity) -> dict[str, Tensor]:
    """A sensitivity as named tensors, for a file."""
    tensors = {"input_gram": sensitivity.input_gram, "output_gram": sensitivity.output_gram}
    for position, term in enumerate(sensitivity.terms):
        tensors |= {f"left{position}": term.left, f"right{position}": term.right}
    if sensitivity.seen_rows is not None:
        tensors["seen_rows"] = sensitivity.seen_rows
    if sensitivity.inputs is not None:
        tensors["inputs"] = sensitivity.inputs
    # A file holds no two tensors over the same memory.
    return {name: values.clone() for name, values in tensors.items()}


def sensitivity_of(tensors: Mapping[str, Tensor]) -> Sensitivity:
    """The sensitivity that `sensitivity_tensors` took apart."""
    count = sum(name.startswith("left") for name in tensors)
    return Sensitivity(
        input_gram=tensors["input_gram"],
        output_gram=tensors["output_gram"],
        terms=tuple(PriceTerm(tensors[f"left{number}"], tensors[f"right{number}"]) for number in range(count)),
        seen_rows=tensors.get("seen_rows"),
        inputs=tensors.get("inputs"),
    )
