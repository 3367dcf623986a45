"""Whitening by Cholesky factors against explicit inverse square roots."""

from __future__ import annotations

import torch
from torch import Tensor

from layerlens.linalg.cholesky_whitening import damped_cholesky, whiten


def _positive(size: int, seed: int, rows: int | None = None) -> Tensor:
    values = torch.randn(rows or 3 * size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.t() @ values / len(values)


def _inverse_root(gram: Tensor, damping: float) -> Tensor:
    values, vectors = torch.linalg.eigh(gram.double())
    return vectors @ torch.diag((values + damping * values.mean()).rsqrt()) @ vectors.t()


def test_the_factor_is_that_of_the_damped_gram() -> None:
    gram = _positive(6, seed=0)
    factor = damped_cholesky(gram, 0.1)
    assert factor is not None
    expected = gram + 0.1 * gram.trace() / 6 * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(factor @ factor.t(), expected)


def test_the_gram_is_left_as_it_was() -> None:
    gram = _positive(6, seed=0)
    before = gram.clone()
    damped_cholesky(gram, 0.1)
    assert torch.equal(gram, before)


def test_inner_products_of_whitened_gradients_equal_those_of_the_symmetric_roots() -> None:
    input_gram, output_gram = _positive(8, seed=1), _positive(5, seed=2)
    first, second = (torch.randn(5, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (3, 4))
    factors = damped_cholesky(output_gram, 0.03), damped_cholesky(input_gram, 0.03)
    ours = [whiten(gradient, *factors) for gradient in (first, second)]
    left, right = _inverse_root(output_gram, 0.03), _inverse_root(input_gram, 0.03)
    symmetric = [left @ gradient @ right for gradient in (first, second)]
    torch.testing.assert_close(torch.linalg.svdvals(ours[0]), torch.linalg.svdvals(symmetric[0]))
    torch.testing.assert_close((ours[0] * ours[1]).sum(), (symmetric[0] * symmetric[1]).sum())


def test_nothing_seen_cannot_be_whitened() -> None:
    assert damped_cholesky(torch.zeros(4, 4), 0.03) is None


def test_a_tiny_damping_of_a_singular_float32_gram_still_gives_a_factor() -> None:
    gram = _positive(300, seed=5, rows=3).float()
    factor = damped_cholesky(gram, 1e-6)
    assert factor is not None
    assert factor.dtype == torch.float32
    assert torch.isfinite(factor).all()
    torch.testing.assert_close(factor @ factor.t(), gram, rtol=1e-3, atol=1e-3)
