"""What an error in one matrix costs: ½ tr(B E A Eᵀ) nats for each prediction, with A and B to fit by and thin roots to price by.

A prediction is a token of a language model, a sample of a classifier or regression, the start or end of an answer. With the
gradients of the sums of samples' negative log-likelihoods, at labels drawn from the model, and n predictions in all,

    KL for each prediction ≈ 1 / 2n · Σ over samples of ⟨E, G_s⟩² ≈ ½ tr(B E A Eᵀ)

where tr B tr A = Σ ‖G_s‖² / n, the trace of the exact Fisher matrix, and both are its marginals (`layer_moments`). What codes
and factors are fitted by has no size: only its directions count there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.compressing.layer_moments import LayerMoments
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


def layer_sensitivity(
    moments: LayerMoments, inputs: Float[Tensor, "_ in_features"] | None, num_predictions: float
) -> Sensitivity:
    """Of a layer.

    Args:
        moments: Given away.
        inputs: Root of the held-out inputs, for the error of the outputs.
        num_predictions: Predictions of all samples.
    """
    input_gram, output_gram = moments.grams()
    left, right = moments.roots(moments.fisher_trace / num_predictions)
    return Sensitivity(input_gram, output_gram, (PriceTerm(left, right),), inputs=inputs)


def idle_sensitivity(out_features: int, in_features: int) -> Sensitivity:
    """Of a matrix that no sample's loss depends on."""
    term = PriceTerm(torch.zeros(out_features), torch.zeros(1, in_features))
    return Sensitivity(torch.zeros(in_features, in_features), torch.zeros(out_features), (term,))


def table_sensitivity(moments: TableMoments, num_predictions: float) -> Sensitivity:
    """Of an embedding table: rows weigh by their gradients, and B takes the place of the inputs' Gram."""
    weights, trace = moments.row_weights(), moments.square_sum / num_predictions
    return Sensitivity(
        input_gram=moments.fitted.moments(trace),
        output_gram=weights,
        terms=(PriceTerm(weights, moments.held.root(trace)),),
        seen_rows=moments.row_shares(),
    )


def output_sensitivity(moments: OutputMoments) -> Sensitivity:
    """Of a language model's output matrix."""
    weights = moments.row_weights()
    return Sensitivity(
        input_gram=moments.fitted.moments(1.0),
        output_gram=weights,
        terms=(PriceTerm(weights, moments.held.root(1.0)),),
        inputs=moments.inputs.root(1.0),
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
