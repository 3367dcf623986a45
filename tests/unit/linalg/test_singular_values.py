"""Spectra against a full SVD."""

from __future__ import annotations

import pytest
import torch

from layerlens.linalg.singular_values import singular_values


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (1, 7)])
def test_singular_values_equal_those_of_the_svd_largest_first(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(singular_values(weight), torch.linalg.svdvals(weight.double()))


def test_the_leading_256_hold_a_thousandth_over_four_orders_of_magnitude() -> None:
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.linalg.qr(torch.randn(320, 320, generator=generator, dtype=torch.float64))[0] for _ in range(2))
    exact = torch.logspace(2, -2, 320, dtype=torch.float64)
    weight = (left * exact) @ right
    torch.testing.assert_close(singular_values(weight.float())[:256], exact[:256], rtol=1e-3, atol=0.0)


def test_a_weight_that_needs_a_gradient_is_read_without_one() -> None:
    weight = torch.nn.Parameter(torch.eye(3))
    assert not singular_values(weight).requires_grad
