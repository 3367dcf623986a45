"""The switch of the products' library: the same error as ever, and back where it was in every case."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from layerlens.linalg import fast_products as subject
from layerlens.linalg.fast_products import fast_products, is_thrown

pytestmark = pytest.mark.skipif(subject._precision() is None, reason="torch has had the switch since 2.9")


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    subject._is_exact.cache_clear()
    yield
    subject._is_exact.cache_clear()


@pytest.fixture
def willing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that takes the switch, whatever this one is."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setattr(subject, "_LARGEST_ERROR", float("inf"))


@pytest.mark.parametrize("shape", [(1, 5, 7), (64, 16, 48), (21, 300, 96), (257, 768, 130)])
@pytest.mark.parametrize("is_turned", [False, True])
def test_products_are_as_exact_as_float32_can_be(shape: tuple[int, int, int], is_turned: bool) -> None:
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(rows, inner, generator=generator), torch.randn(inner, columns, generator=generator)
    right = right.t().contiguous().t() if is_turned else right
    with fast_products():
        found, added = left @ right, torch.ones(rows, columns).addmm_(left, right)
    exact = left.double() @ right.double()
    # The bound of float32 on a sum of products, with room for the order of summation.
    bound = 2.0**-23 * inner**0.5 * 4 * (left.double().abs() @ right.double().abs())
    assert bool(((found - exact).abs() <= bound).all())
    assert bool(((added - 1.0 - exact).abs() <= bound + 2.0**-22 * (1 + exact.abs())).all())


def test_the_switch_is_thrown_inside_and_back_after_nesting_and_errors(willing: None) -> None:
    assert not is_thrown()
    with fast_products():
        assert is_thrown()
        with fast_products():
            assert is_thrown()
        assert is_thrown()
    assert not is_thrown()
    with pytest.raises(ValueError, match="stop"), fast_products():
        raise ValueError("stop")
    assert not is_thrown()
    # A caller of the older name finds it in order again.
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_last_of_several_that_leave_out_of_turn_puts_it_back(willing: None) -> None:
    first, second = fast_products(), fast_products()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert is_thrown()
    second.__exit__(None, None, None)
    assert not is_thrown()


@pytest.mark.parametrize("capabilities", [{}, {"avx512_bf16": True, "amx_tile": True}, {"avx512_bf16": False}])
def test_a_processor_that_may_round_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, willing: None, capabilities: dict[str, bool]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    with fast_products():
        assert not is_thrown()


def test_a_product_that_turns_out_rounded_leaves_the_switch_alone(monkeypatch: pytest.MonkeyPatch, willing: None) -> None:
    monkeypatch.setattr(subject, "_LARGEST_ERROR", 0.0)
    with fast_products():
        assert not is_thrown()


def test_the_answer_is_the_same_where_an_autocast_asks_first() -> None:
    outside = subject._is_exact()
    subject._is_exact.cache_clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert subject._is_exact() == outside
