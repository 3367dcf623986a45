"""A layer's marginals against those of per-sample gradients written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerlens.compressing.layer_moments import InputMoments, LayerMoments
from layerlens.compressing.moment_sums import SKETCH_ROWS

SAMPLES, TOKENS, IN, OUT = 12, 6, 9, 7


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs and gradients that depend on each other, padded, with held-out samples."""
    torch.manual_seed(seed)
    mask = torch.ones(SAMPLES, TOKENS)
    mask[2, 4:] = mask[5, 1:] = 0.0
    loud = torch.rand(SAMPLES, TOKENS, 1) * 3 * mask[..., None]
    inputs = (torch.randn(SAMPLES, TOKENS, IN) + 1.0) * loud
    gradient = torch.randn(SAMPLES, TOKENS, OUT) * (3.2 - loud) * mask[..., None]
    return inputs, gradient, torch.arange(SAMPLES) % 3 == 2, mask.sum(1)


def per_sample(inputs: Tensor, gradient: Tensor) -> Tensor:
    return torch.einsum("sto,sti->soi", gradient, inputs)


def test_roots_have_the_marginals_of_the_fisher_matrix_of_held_out_samples() -> None:
    inputs, gradient, is_held, counts = batch()
    G = per_sample(inputs, gradient)[is_held]
    input_marginal, output_marginal = (torch.einsum(how, G, G) for how in ("soi,soj->ij", "soi,spi->op"))
    found_in, found_out, repeats = torch.zeros(IN, IN), torch.zeros(OUT, OUT), 60
    for repeat in range(repeats):
        moments = LayerMoments(OUT, IN, InputMoments(IN))
        generator = torch.Generator().manual_seed(repeat)
        # The signs that all samples share are drawn once for each layer; here they are to be averaged over.
        for signs in (moments._input_signs, moments._output_signs):
            signs.copy_(torch.randint(0, 2, signs.shape, generator=generator) * 2.0 - 1.0)
        for rows in (slice(0, 5), slice(5, SAMPLES)):
            moments.add(inputs[rows], gradient[rows], is_held[rows], counts[rows], (repeat, rows.start))
        left, right = moments.roots(2.0)
        assert left.shape == (SKETCH_ROWS, OUT)
        assert float(left.square().sum()) == pytest.approx(2.0, rel=1e-5)
        assert float(right.square().sum()) == pytest.approx(1.0, rel=1e-5)
        found_in += right.T @ right / repeats
        found_out += left.T @ left / repeats
    torch.testing.assert_close(found_in, input_marginal / input_marginal.trace(), rtol=0.05, atol=0.004)
    torch.testing.assert_close(found_out, 2.0 * output_marginal / output_marginal.trace(), rtol=0.05, atol=0.008)


def test_what_is_fitted_by_has_the_marginals_of_tokens_and_of_means() -> None:
    inputs, gradient, is_held, counts = batch()
    moments = LayerMoments(OUT, IN, InputMoments(IN))
    for rows in (slice(0, 5), slice(5, SAMPLES)):
        moments.add(inputs[rows], gradient[rows], is_held[rows], counts[rows], (0, rows.start))
    A, B = torch.zeros(IN, IN), torch.zeros(OUT, OUT)
    for sample in (~is_held).nonzero().flatten().tolist():
        x, g = (side[sample, : int(counts[sample])] for side in (inputs, gradient))
        m, total = x.mean(0), g.sum(0)
        for within, own in zip(x - m, g, strict=True):
            A += within.outer(within) * own.square().sum()
            B += own.outer(own) * within.square().sum()
        A += m.outer(m) * total.square().sum()
        B += total.outer(total) * m.square().sum()
    found_in, found_out = moments.grams()
    torch.testing.assert_close(found_in, A / A.trace(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found_out, B / B.trace(), rtol=1e-3, atol=1e-5)


def test_one_row_a_sample_is_its_own_mean() -> None:
    torch.manual_seed(0)
    inputs, gradient = torch.randn(40, 1, IN), torch.randn(40, 1, OUT)
    moments = LayerMoments(OUT, IN, InputMoments(IN))
    moments.add(inputs, gradient, torch.zeros(40, dtype=torch.bool), torch.ones(40), (0, 0))
    G = per_sample(inputs, gradient)
    A, B = (torch.einsum(how, G, G) for how in ("soi,soj->ij", "soi,spi->op"))
    found_in, found_out = moments.grams()
    torch.testing.assert_close(found_in, A / A.trace(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found_out, B / B.trace(), rtol=1e-3, atol=1e-5)
