"""Squared Frobenius norms of per-sample weight gradients, without keeping one of them.

A linear layer y_t = W x_t with output gradients g_t has the per-sample gradient Σ_t g_t x_tᵀ. Its squared norm is

    ‖Σ_t g_t x_tᵀ‖²_F = Σ_{t,t'} (x_t · x_t') (g_t · g_t')        (ghost form)

Two routes with the same result: the ghost form costs tokens² (in + out) multiply-adds for each sample and shares the
Gram of the inputs between layers that read the same input; the direct form writes each sample's gradient to one
scratch block that the next sample overwrites, and adds it to the sum of gradients that is wanted anyway.

Source: Goodfellow (2015), arXiv 1510.01799; for sequences Li, Tramèr, Liang, Hashimoto (2021), arXiv 2110.05679.

Axes: samples, tokens, in_features, out_features. Float32 (or the inputs' own type) throughout; the caller sums over
samples in float64. Padded tokens contribute nothing where their output gradient is zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

#: Passing once over a gradient's entries (norm, sum) costs about as much as this many multiply-adds of a matrix product
#: for each entry; measured on one x86 core with AVX-512.
_PASS_COST = 11.0
#: Entries of the direct form's scratch block: rows of one sample's gradient, small enough to stay in the cache.
_SCRATCH_ENTRIES = 1 << 20


def is_direct_cheaper(num_tokens: int, in_features: int, out_features: int, num_sharing: int = 1) -> bool:
    """Whether the direct form costs less than the ghost form beside a sum of gradients.

    Args:
        num_tokens: Tokens of each sample.
        in_features: Inputs of the layer.
        out_features: Outputs of the layer.
        num_sharing: Layers that share the Gram of the inputs.
    """
    ghost = num_tokens**2 * (in_features / num_sharing + out_features)
    return ghost > _PASS_COST * in_features * out_features


def is_ghost_cheaper_alone(num_tokens: int, in_features: int, out_features: int, num_sharing: int = 1) -> bool:
    """Whether the ghost form costs less than the direct form where no sum of gradients is wanted."""
    ghost = num_tokens**2 * (in_features / num_sharing + out_features)
    return ghost <= (num_tokens + _PASS_COST) * in_features * out_features


def token_gram(values: Float[Tensor, "samples tokens features"]) -> Float[Tensor, "samples tokens tokens"]:
    """Inner products of every two tokens of a sample."""
    return torch.bmm(values, values.transpose(1, 2))


def ghost_norms(
    input_gram: Float[Tensor, "samples tokens tokens"], gradient: Float[Tensor, "samples tokens out_features"]
) -> Float[Tensor, " samples"]:
    """Squared norms of the per-sample gradients by the ghost form.

    Args:
        input_gram: `token_gram` of the layer's inputs.
        gradient: Gradient of each sample's loss by the layer's outputs.
    """
    return token_gram(gradient).mul_(input_gram).sum(dim=(1, 2))


def add_gradients_(
    sums: Sequence[Float[Tensor, "out_features in_features"]],
    inputs: Sequence[Float[Tensor, "_ tokens in_features"]],
    gradients: Sequence[Float[Tensor, "_ tokens out_features"]],
) -> None:
    """Add Σ_samples Σ_t g_t x_tᵀ of each part of the samples to that part's sum, in place."""
    for total, values, gradient in zip(sums, inputs, gradients, strict=True):
        if len(values):
            total.addmm_(gradient.flatten(0, 1).t(), values.flatten(0, 1))


def add_gradients_with_norms_(
    sums: Sequence[Float[Tensor, "out_features in_features"]],
    inputs: Sequence[Float[Tensor, "_ tokens in_features"]],
    gradients: Sequence[Float[Tensor, "_ tokens out_features"]],
) -> Float[Tensor, " samples"]:
    """Add the gradients of each part of the samples to that part's sum, in place, by the direct form.

    Returns:
        The squared norms of the per-sample gradients, part after part.
    """
    out_features, in_features = sums[0].shape
    rows = min(out_features, max(1, _SCRATCH_ENTRIES // in_features))
    scratch = sums[0].new_empty(rows, in_features)
    num_samples = sum(len(part) for part in inputs)
    norms = sums[0].new_zeros(num_samples)
    for start in range(0, out_features, rows):
        stop = min(start + rows, out_features)
        block = scratch[: stop - start]
        flat = block.view(-1)
        parts = []
        for total, values, gradient in zip(sums, inputs, gradients, strict=True):
            target = total[start:stop]
            for sample in range(len(values)):
                torch.mm(gradient[sample, :, start:stop].t(), values[sample], out=block)
                parts.append(torch.linalg.vector_norm(flat).square())
                target.add_(block)
        norms += torch.stack(parts)
    return norms
