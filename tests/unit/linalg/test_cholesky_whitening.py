"""Whitening by Cholesky factors against explicit inverse square roots."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerlens.linalg.cholesky_whitening import damped_whitener
from layerlens.linalg.gram import GramSum
from tests.unit.allocations import peak_bytes


def _inverse_root(gram: Tensor, damping: float) -> Tensor:
    values, vectors = torch.linalg.eigh(gram.double())
    return vectors @ torch.diag((values + damping * values.mean()).rsqrt()) @ vectors.t()


def _randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_gram_is_left_as_it_was_where_it_is_not_released() -> None:
    gram = _gram_sum(_randn(0, 20, 6), 20)
    before = gram.full()
    damped_whitener(gram, 20, 0.1)
    assert torch.equal(gram.full(), before)


def test_inner_products_of_whitened_gradients_equal_those_of_the_symmetric_roots() -> None:
    inputs, outputs = _randn(1, 24, 8), _randn(2, 15, 5)
    first, second = (_randn(seed, 5, 8) for seed in (3, 4))
    left, right = _inverse_root(outputs.t() @ outputs / 7, 0.03), _inverse_root(inputs.t() @ inputs / 24, 0.03)
    symmetric = [left @ gradient @ right for gradient in (first, second)]
    for gradient in (first, second):
        damped_whitener(_gram_sum(inputs, 24), 24, 0.03).apply_(gradient)
        damped_whitener(_gram_sum(outputs, 15), 7, 0.03).apply_(gradient.t())
    torch.testing.assert_close(torch.linalg.svdvals(first), torch.linalg.svdvals(symmetric[0]))
    torch.testing.assert_close((first * second).sum(), (symmetric[0] * symmetric[1]).sum())


@pytest.mark.parametrize("damping", [1e-4, 1e-6, 1e-9])
def test_a_tiny_damping_of_a_singular_float32_gram_still_whitens(damping: float) -> None:
    rows = _randn(5, 3, 300).float()
    whitened = rows.clone()
    damped_whitener(_gram_sum(rows, 10_000), 3, damping).apply_(whitened)
    # With next to no damping the rows become orthogonal, and as long as the root of their number.
    torch.testing.assert_close(whitened @ whitened.t(), 3.0 * torch.eye(3), rtol=1e-2, atol=3e-2)


def _gram_sum(rows: Tensor, num_expected: int) -> GramSum:
    gram = GramSum(rows.shape[1], num_expected)
    gram.add(rows)
    return gram


def _hard_rows(count: int, features: int) -> Tensor:
    """Rows with a common mean, of which a few are a thousand times larger than the others along one direction."""
    generator = torch.Generator().manual_seed(9)
    rows = torch.randn(count, features, generator=generator) + 2.0
    rows[:3] = 0.0
    rows[:3, 3], rows[:3, 5] = 1000.0, -700.0
    return rows


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize(("count", "num_expected"), [(100, 100), (100, 10_000), (700, 10_000)], ids=["rows", "few", "many"])
def test_whitened_inner_products_are_those_of_the_explicit_inverse(count: int, num_expected: int, is_transposed: bool) -> None:
    features, samples = 300, 50
    rows = _hard_rows(count, features)
    gram = _gram_sum(rows, num_expected)
    assert (gram.rows is None) == (num_expected > 150)
    matrix = torch.randn(8, features, generator=torch.Generator().manual_seed(2))
    matrix += matrix @ rows.t() @ rows / 1e6
    exact = rows.double().t() @ rows.double() / samples
    damped = exact + 0.1 * exact.trace() / features * torch.eye(features, dtype=torch.float64)
    expected = matrix.double() @ torch.linalg.solve(damped, matrix.double().t())
    whitened = matrix.t().contiguous().t() if is_transposed else matrix.clone()
    whitener = damped_whitener(gram, samples, 0.1)
    address = whitened.data_ptr()
    whitener.apply_(whitened)
    assert whitened.data_ptr() == address
    torch.testing.assert_close(whitened.double() @ whitened.double().t(), expected, rtol=1e-3, atol=1e-4 * expected.max().item())


@pytest.mark.parametrize("num_expected", [100, 10_000])
def test_a_released_gram_is_let_go_and_whitens_alike(num_expected: int) -> None:
    rows = _hard_rows(100, 300)
    matrix = torch.randn(4, 300, generator=torch.Generator().manual_seed(2))
    results = []
    for releases in (False, True):
        gram = _gram_sum(rows, num_expected)
        whitener = damped_whitener(gram, 100, 0.1, releases=releases)
        results.append(matrix.clone())
        whitener.apply_(results[-1])
        assert (gram.trace() == 0.0) == releases
    assert torch.equal(*results)


def test_no_rows_make_no_whitener() -> None:
    assert damped_whitener(GramSum(300, 100), 0, 0.1) is None
    assert damped_whitener(_gram_sum(torch.zeros(4, 300), 10_000), 4, 0.1) is None
    # Squares of these are among the last few numbers above zero, and no Cholesky factor of them exists.
    tiny = 1e-23 * torch.randn(64, 24, generator=torch.Generator().manual_seed(0))
    assert damped_whitener(_gram_sum(tiny, 10_000), 64, 0.1) is None


def test_factor_and_solves_take_a_few_columns_beside_the_gram_and_the_matrix() -> None:
    features = 1500
    gram = _gram_sum(torch.randn(1600, features, generator=torch.Generator().manual_seed(0)), 1600)
    kept = []
    # The packed corner blocks are mirrored one at a time, each a sixteenth of the Gram.
    assert peak_bytes(lambda: kept.append(damped_whitener(gram, 1600, 0.1))) < 1.35 * 4 * features**2
    for matrix in (torch.randn(400, features), torch.randn(features, 400).t()):
        # Two blocks of 128 columns, and the inverse of a block beside what it is solved from.
        assert peak_bytes(lambda matrix=matrix: kept[0].apply_(matrix)) < 2.2 * 4 * 128 * (400 + 2 * 128)
