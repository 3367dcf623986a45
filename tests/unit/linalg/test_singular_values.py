"""Spectra against a full SVD in float64, on flat, decaying and spiked ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerlens.linalg import singular_values as module
from layerlens.linalg.singular_values import energy, singular_values, singular_values_bytes


@pytest.fixture(params=["float64 at once", "float32 first"], autouse=True)
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "float32 first":
        monkeypatch.setattr(module, "_LARGEST_DOUBLE", 0)
    return request.param


def _rounds_products(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Take the route of rounded products at any size and on any processor; returns the routes as they are taken."""
    monkeypatch.setattr(module, "_LARGEST_DOUBLE", 0)
    monkeypatch.setattr(module, "_SMALLEST_ROUNDED", 0)
    monkeypatch.setattr(module, "multiplies_bfloat16", lambda device: True)
    types: list[torch.dtype] = []
    plain = module._from_gram
    monkeypatch.setattr(module, "_from_gram", lambda values, count, dtype: types.append(dtype) or plain(values, count, dtype))
    return types


@pytest.mark.parametrize("shape", [(700, 700), (600, 1500), (1500, 600)])
def test_rounded_products_hold_a_thousandth_of_a_flat_spectrum(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]) -> None:
    types = _rounds_products(monkeypatch)
    weight = (_randn(*shape) + 0.2).bfloat16()
    expected = torch.linalg.svdvals(weight.double())[:256]
    assert 5 < expected[0] / expected[-1] < 16
    torch.testing.assert_close(singular_values(weight), expected, rtol=1e-3, atol=0.0)
    assert types == [torch.bfloat16]


def test_rounded_products_give_way_where_values_lie_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    types = _rounds_products(monkeypatch)
    for decades, taken in ((1.7, [torch.bfloat16, torch.float32]), (4, [torch.bfloat16, torch.float32, torch.float64])):
        types.clear()
        weight = _with_spectrum(torch.logspace(1, 1 - decades, 300, dtype=torch.float64)).bfloat16()
        expected = torch.linalg.svdvals(weight.double())[:256]
        torch.testing.assert_close(singular_values(weight), expected, rtol=1e-3, atol=0.0)
        # What bfloat16 keeps of the smallest values is its rounding.
        assert types == taken[: 2 if expected[0] < 100 * expected[-1] else 3]


def test_float32_weights_are_never_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    types = _rounds_products(monkeypatch)
    singular_values(_randn(60, 60).float())
    assert torch.bfloat16 not in types


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _with_spectrum(values: Tensor, large: int | None = None) -> Tensor:
    small = len(values)
    left = torch.linalg.qr(_randn(small, small, seed=1))[0]
    right = torch.linalg.qr(_randn(large or small, small, seed=2))[0]
    return (left * values) @ right.t()


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (1, 7), (9, 3000)])
def test_values_equal_those_of_the_svd_largest_first(shape: tuple[int, int]) -> None:
    weight = _randn(*shape)
    torch.testing.assert_close(singular_values(weight), torch.linalg.svdvals(weight), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("shape", [(320, 320), (600, 300), (300, 1100)])
def test_the_leading_256_of_a_flat_spectrum_hold_a_thousandth(shape: tuple[int, int]) -> None:
    weight = _randn(*shape)
    found = singular_values(weight.float())
    assert found.shape == (256,)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.linalg.svdvals(weight)[:256], rtol=2e-4, atol=0.0)


@pytest.mark.parametrize("decades", [1, 2, 4])
def test_the_leading_256_hold_a_thousandth_over_many_orders_of_magnitude(decades: int) -> None:
    exact = torch.logspace(decades / 2, -decades / 2, 320, dtype=torch.float64)
    found = singular_values(_with_spectrum(exact, 500).float())
    torch.testing.assert_close(found, exact[:256], rtol=1e-3, atol=0.0)


def test_a_flat_spectrum_under_a_few_large_values_holds_a_thousandth() -> None:
    exact = torch.cat([torch.logspace(3, 2, 20, dtype=torch.float64), torch.linspace(1.5, 0.5, 300, dtype=torch.float64)])
    torch.testing.assert_close(singular_values(_with_spectrum(exact).float()), exact[:256], rtol=1e-3, atol=0.0)


def test_repeated_values_and_a_deficient_rank_are_found() -> None:
    exact = torch.cat([torch.full((200,), 2.0), torch.zeros(100)]).double()
    found = singular_values(_with_spectrum(exact).float())
    torch.testing.assert_close(found[:200], exact[:200], rtol=1e-4, atol=0.0)
    assert found[200:].max().item() < 1e-3
    assert singular_values(torch.zeros(4, 3)).tolist() == [0.0] * 3


def test_float64_is_left_to_spectra_that_need_it(monkeypatch: pytest.MonkeyPatch, route: str) -> None:
    types = []
    plain = module._from_gram
    monkeypatch.setattr(module, "_from_gram", lambda values, count, dtype: types.append(dtype) or plain(values, count, dtype))
    singular_values(_randn(300, 300).float())
    singular_values(_with_spectrum(torch.logspace(2, -2, 300, dtype=torch.float64)).float())
    first = [torch.float32] if route == "float32 first" else []
    assert types == ([*first, *first, torch.float64] if first else [torch.float64] * 2)


def test_a_weight_in_bfloat16_or_transposed_is_read_as_it_is() -> None:
    weight = _randn(60, 40).bfloat16()
    expected = torch.linalg.svdvals(weight.double())
    for given in (weight, weight.t()):
        torch.testing.assert_close(singular_values(given), expected, rtol=1e-4, atol=0.0)
        assert energy(given) == pytest.approx(expected.square().sum().item())


def test_a_weight_that_needs_a_gradient_is_read_without_one() -> None:
    weight = torch.nn.Parameter(torch.eye(3))
    assert not singular_values(weight).requires_grad


def test_two_reads_give_the_same_bytes() -> None:
    weight = _randn(300, 280).float()
    assert torch.equal(singular_values(weight), singular_values(weight.clone()))


def test_fewer_may_be_asked_for_and_bytes_do_not_depend_on_the_orientation() -> None:
    assert len(singular_values(_randn(20, 30), 5)) == 5
    assert singular_values_bytes(4096, 11008) == singular_values_bytes(11008, 4096)
