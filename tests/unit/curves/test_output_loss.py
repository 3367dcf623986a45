"""The loss of an error against a model whose curvature is known."""

from __future__ import annotations

import pytest
import torch

from layerlens.curves.output_loss import quadratic_loss
from tests.unit.linalg.rounding_cases import gram, weight


def test_the_loss_is_half_the_mean_square_of_what_the_error_does_to_the_outputs() -> None:
    inputs = torch.randn(50, 13, generator=torch.Generator().manual_seed(0))
    error = weight(7, 13)
    expected = 0.5 * (inputs @ error.t()).square().sum(1).mean().item()
    assert quadratic_loss(error, inputs.t() @ inputs / 50) == pytest.approx(expected, rel=1e-5)


def test_with_an_output_gram_it_is_the_second_order_change_of_a_linear_models_loss() -> None:
    """For loss ½ yᵀ H y of outputs y = W x, the curvature in W is A ⊗ H, and so exact."""
    generator = torch.Generator().manual_seed(0)
    inputs, error, curvature = torch.randn(50, 13, generator=generator).double(), weight(7, 13).double(), gram(7).double()
    change = inputs @ error.t()
    expected = 0.5 * ((change @ curvature) * change).sum(1).mean().item()
    assert quadratic_loss(error, inputs.t() @ inputs / 50, curvature) == pytest.approx(expected, rel=1e-9)


def test_no_error_costs_nothing_and_a_diagonal_is_a_gram_without_correlations() -> None:
    error, inner, outer = weight(7, 13), gram(13), torch.rand(7, generator=torch.Generator().manual_seed(0))
    assert quadratic_loss(torch.zeros_like(error), inner, outer) == 0.0
    assert quadratic_loss(error, inner, outer) == pytest.approx(quadratic_loss(error, inner, outer.diag()), rel=1e-5)
