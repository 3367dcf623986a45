"""The switch of the products' library: the same error as ever, and off again in every case."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from layerlens.linalg import fast_products as subject
from layerlens.linalg.fast_products import fast_products


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    subject._is_exact.cache_clear()
    yield
    subject._is_exact.cache_clear()


def switched() -> str:
    return str(subject._switch().fp32_precision)


@pytest.mark.parametrize("shape", [(1, 5, 7), (64, 16, 48), (21, 300, 96), (257, 768, 130)])
@pytest.mark.parametrize("is_turned", [False, True])
def test_products_are_as_exact_as_float32_can_be(shape: tuple[int, int, int], is_turned: bool) -> None:
    rows, inner, columns = shape
    left, right = torch.randn(rows, inner), torch.randn(inner, columns)
    right = right.t().contiguous().t() if is_turned else right
    with fast_products():
        found, added = left @ right, torch.ones(rows, columns).addmm_(left, right)
    exact = left.double() @ right.double()
    # The bound of float32 on a sum of products, with room for the order of summation.
    bound = 2.0**-23 * inner**0.5 * 4 * (left.double().abs() @ right.double().abs())
    assert bool(((found - exact).abs() <= bound).all())
    assert bool(((added - 1.0 - exact).abs() <= bound + 2.0**-22 * (1 + exact.abs())).all())


def test_the_switch_is_back_where_it_was_after_nesting_and_errors() -> None:
    before = switched()
    with fast_products():
        inside = switched()
        with fast_products():
            assert switched() == inside
        assert switched() == inside
    assert switched() == before
    with pytest.raises(ValueError, match="stop"), fast_products():
        raise ValueError("stop")
    assert switched() == before


@pytest.mark.parametrize("capabilities", [{}, {"avx512_bf16": True, "amx_tile": True}, {"avx512_bf16": False}])
def test_a_processor_that_may_round_is_left_alone(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool]) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    before = switched()
    with fast_products():
        assert switched() == before


def test_a_product_that_turns_out_rounded_leaves_the_switch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(subject, "_LARGEST_ERROR", 0.0)
    before = switched()
    with fast_products():
        assert switched() == before
