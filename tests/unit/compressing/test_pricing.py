"""Prices against the quadratic form written out, and every rank's against that of the product."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerlens.compressing import pricing
from layerlens.compressing.pricing import Errors, Pricer
from layerlens.compressing.sensitivity import PriceTerm, Sensitivity


def layer() -> tuple[Tensor, Sensitivity]:
    torch.manual_seed(0)
    left, right = torch.randn(30, 24), torch.randn(50, 40) * torch.linspace(0.1, 3, 40)
    sensitivity = Sensitivity(right.T @ right, left.T @ left, (PriceTerm(left, right),), inputs=right)
    return torch.randn(24, 40), sensitivity


def table() -> tuple[Tensor, Sensitivity]:
    torch.manual_seed(1)
    weights, other, right = torch.rand(24), torch.rand(24), torch.randn(50, 40)
    terms = (PriceTerm(weights, right), PriceTerm(other, 2.0 * right))
    return torch.randn(24, 40), Sensitivity(right.T @ right, weights, terms, seen_rows=torch.rand(24))


def written_out(weight: Tensor, sensitivity: Sensitivity, error: Tensor) -> Errors:
    loss = 0.0
    for term in sensitivity.terms:
        B = term.left.T @ term.left if term.left.ndim == 2 else term.left.diag()
        loss += 0.5 * float(torch.trace(B.double() @ error.double() @ (term.right.T @ term.right).double() @ error.double().T))
    if sensitivity.inputs is not None:
        sizes = [float((value @ sensitivity.inputs.T).norm()) for value in (error, weight)]
    else:
        assert sensitivity.seen_rows is not None
        sizes = [float((sensitivity.seen_rows.sqrt()[:, None] * value).norm()) for value in (error, weight)]
    return Errors(loss, float(error.norm() / weight.norm()), sizes[0] / sizes[1])


def assert_alike(found: Errors, expected: Errors) -> None:
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert found.weight == pytest.approx(expected.weight, rel=1e-4)
    assert found.output == pytest.approx(expected.output, rel=1e-4)


@pytest.mark.parametrize("kind", [layer, table])
@pytest.mark.parametrize("rows", [7, 1000])
def test_an_error_costs_the_quadratic_form(monkeypatch: pytest.MonkeyPatch, kind: type, rows: int) -> None:
    monkeypatch.setattr(pricing, "_ROWS", rows)
    weight, sensitivity = kind()
    error = 0.1 * torch.randn(24, 40)
    assert_alike(Pricer(weight, sensitivity).errors(error), written_out(weight, sensitivity, error))


@pytest.mark.parametrize("kind", [layer, table])
@pytest.mark.parametrize("rows", [7, 1000])
def test_every_rank_costs_what_its_product_does(monkeypatch: pytest.MonkeyPatch, kind: type, rows: int) -> None:
    monkeypatch.setattr(pricing, "_ROWS", rows)
    monkeypatch.setattr(pricing, "_WEIGHTED", rows * 24)
    weight, sensitivity = kind()
    left, values, right = torch.linalg.svd(weight)
    up, down = (left[:, :20] * values[:20]).T, right[:20]
    found = Pricer(weight, sensitivity).ranks(-weight, up, down, [3, 8, 20])
    for rank, errors in zip([3, 8, 20], found, strict=True):
        assert_alike(errors, written_out(weight, sensitivity, up[:rank].T @ down[:rank] - weight))


def test_nothing_is_lost_by_no_error_even_of_a_matrix_of_zeros() -> None:
    weight, sensitivity = layer()
    assert Pricer(torch.zeros_like(weight), sensitivity).errors(torch.zeros_like(weight)) == Errors(0.0, 0.0, 0.0)


@pytest.mark.parametrize("kind", [layer, table])
def test_an_error_may_come_in_parts(kind: type) -> None:
    weight, sensitivity = kind()
    error = torch.randn_like(weight)
    found = Pricer(weight, sensitivity).errors_of_parts(error.split(7))
    assert_alike(found, written_out(weight, sensitivity, error))
