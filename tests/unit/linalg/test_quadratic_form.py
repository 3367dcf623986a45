"""Quadratic forms against the products as they are written, in float64."""

from __future__ import annotations

import pytest
import torch

from layerlens.linalg import quadratic_form as module
from layerlens.linalg.quadratic_form import row_form_differences, row_forms, trace_form, trace_form_difference
from tests.unit.linalg.rounding_cases import gram, weight


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 4)
    monkeypatch.setattr(module, "_FEATURES_AT_ONCE", 5)


@pytest.mark.parametrize("rows", [0, 1, 4, 11])
def test_the_form_of_each_row_is_that_of_the_full_product(rows: int) -> None:
    error, inner = weight(rows, 13), gram(13)
    expected = (error.double() @ inner.double() @ error.double().t()).diagonal()
    torch.testing.assert_close(row_forms(error, inner), expected, rtol=1e-5, atol=1e-12)


def test_the_trace_weighs_rows_by_a_gram_by_its_diagonal_or_all_alike() -> None:
    error, inner, outer = weight(11, 13), gram(13), gram(11, seed=2)
    seen = error.double() @ inner.double() @ error.double().t()
    assert trace_form(error, inner) == pytest.approx(seen.trace().item(), rel=1e-5)
    assert trace_form(error, inner, outer) == pytest.approx((outer.double() @ seen).trace().item(), rel=1e-5)
    assert trace_form(error, inner, outer.diagonal()) == pytest.approx((outer.double().diagonal() * seen.diagonal()).sum().item())


def test_sums_of_products_are_in_float64() -> None:
    """A million small terms beside one large: float32 sums lose them."""
    error = torch.ones(1, 4001, dtype=torch.float64)
    inner = torch.full((4001,), 1e-9, dtype=torch.float64).diag()
    inner[0, 0] = 1e3
    assert trace_form(error, inner) - 1e3 == pytest.approx(4e-6, rel=1e-6)


def test_half_precision_is_multiplied_in_float32() -> None:
    error, inner = weight(5, 13).bfloat16(), gram(13).bfloat16()
    assert trace_form(error, inner) == pytest.approx(trace_form(error.double(), inner.double()), rel=1e-5)


def test_a_difference_is_that_of_the_two_forms() -> None:
    first, second, inner, outer = weight(11, 13), weight(11, 13, seed=3), gram(13), gram(11, seed=2)
    expected = row_forms(first.double(), inner.double()) - row_forms(second.double(), inner.double())
    torch.testing.assert_close(row_form_differences(first, second, inner), expected, rtol=1e-4, atol=1e-6)
    whole = trace_form(first.double(), inner.double(), outer.double())
    whole -= trace_form(second.double(), inner.double(), outer.double())
    assert trace_form_difference(first, second, inner, outer) == pytest.approx(whole, rel=1e-4)


def test_a_difference_keeps_its_digits_where_two_errors_are_close() -> None:
    first, inner = weight(4, 13), gram(13)
    second = first.clone()
    second[:, 3] += 1e-4
    expected = row_forms(first.double(), inner.double()) - row_forms(second.double(), inner.double())
    torch.testing.assert_close(row_form_differences(first, second, inner), expected, rtol=1e-3, atol=0.0)
