"""Blocked factors and solves against LAPACK's, in float64 and float32."""

from __future__ import annotations

import pytest
import torch

from layerlens.linalg.blocked_triangular import cholesky_, solve_


def positive(size: int, dtype: torch.dtype) -> torch.Tensor:
    """Eigenvalues from 1e-3 to 1."""
    generator = torch.Generator().manual_seed(size)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    matrix = basis * torch.logspace(-3, 0, size, dtype=torch.float64) @ basis.t()
    return ((matrix + matrix.t()) / 2).to(dtype)


@pytest.mark.parametrize("size", [1, 7, 128, 129, 300, 512])
def test_the_factor_is_that_of_lapack(size: int) -> None:
    matrix = positive(size, torch.float64)
    factor = matrix.clone()
    assert cholesky_(factor)
    torch.testing.assert_close(factor, torch.linalg.cholesky(matrix), rtol=1e-9, atol=1e-12)
    assert torch.equal(factor, factor.tril())


@pytest.mark.parametrize("size", [7, 300])
@pytest.mark.parametrize("is_turned", [False, True])
def test_a_solve_undoes_the_factor_in_place(size: int, is_turned: bool) -> None:
    factor = torch.linalg.cholesky(positive(size, torch.float64))
    rows = torch.randn(50, size, dtype=torch.float64)
    product = rows @ factor.t()
    product = product.t().contiguous().t() if is_turned else product
    place = product.data_ptr()
    solve_(factor, product)
    torch.testing.assert_close(product, rows, rtol=1e-9, atol=1e-9)
    assert product.data_ptr() == place


def test_in_float32_a_damped_gram_is_whitened_to_its_digits() -> None:
    matrix = positive(400, torch.float32)
    factor = matrix.clone()
    assert cholesky_(factor)
    exact = torch.linalg.cholesky(matrix.double())
    assert float((factor.double() - exact).norm() / exact.norm()) < 1e-5
    rows = torch.randn(60, 400, generator=torch.Generator().manual_seed(0))
    expected = torch.linalg.solve_triangular(exact.t(), rows.double(), upper=True, left=False)
    by_lapack = torch.linalg.solve_triangular(torch.linalg.cholesky(matrix).t(), rows, upper=True, left=False)
    found = rows.clone()
    solve_(factor, found)
    mine, theirs = (float((values.double() - expected).norm() / expected.norm()) for values in (found, by_lapack))
    assert mine <= 2.0 * theirs + 1e-6


@pytest.mark.parametrize("place", [0, 200, 399])
def test_a_matrix_that_is_not_positive_is_told(place: int) -> None:
    matrix = positive(400, torch.float64)
    matrix[place, place] = -1.0
    assert not cholesky_(matrix)
