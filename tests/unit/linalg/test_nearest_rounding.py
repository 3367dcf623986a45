"""Nearest codes and searched scales against exhaustive searches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerlens.artifacts.formats import WIDTHS
from layerlens.linalg import nearest_rounding as module
from layerlens.linalg.codes import Codes, dequantise
from layerlens.linalg.nearest_rounding import round_to_nearest, round_with_searched_scales
from tests.unit.linalg.rounding_cases import weight

_GROUP = 16


def _group_errors(codes: Codes, values: Tensor, weights: Tensor) -> Tensor:
    errors = (dequantise(codes) - values).double().square() * weights.double()
    return (
        torch.nn.functional.pad(errors, (0, -values.shape[1] % codes.group_size)).view(len(values), -1, codes.group_size).sum(2)
    )


def _all_scales(values: Tensor) -> Tensor:
    """Every bfloat16 number, of both signs, from a hundredth of the largest weight up to it."""
    positive = torch.arange(0x0080, 0x7F80, dtype=torch.int16).view(torch.bfloat16).float()
    largest = values.abs().max()
    positive = positive[(positive > largest / 1000) & (positive <= 1.1 * largest)]
    return torch.cat([positive, -positive])


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("make", [round_to_nearest, round_with_searched_scales])
def test_no_other_code_lies_nearer_to_a_weight(make: object, bits: int) -> None:
    values = weight(5, 3 * _GROUP)
    codes = make(values, bits, _GROUP)
    every = torch.arange(-(1 << (bits - 1)), 1 << (bits - 1)).float()
    scales = codes.scales.float().repeat_interleave(_GROUP, dim=1)
    nearest = (every * scales.unsqueeze(2) - values.unsqueeze(2)).abs().amin(2)
    torch.testing.assert_close((dequantise(codes) - values).abs(), nearest, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_larger_end_of_a_group_gets_the_extra_code(bits: int, sign: float) -> None:
    values = torch.linspace(-0.5, 1.0, _GROUP).unsqueeze(0) * sign
    codes = round_to_nearest(values, bits, _GROUP)
    assert codes.values[0, -1].item() == -(1 << (bits - 1))
    assert dequantise(codes)[0, -1].item() == pytest.approx(sign, rel=2**-8)


@pytest.mark.parametrize("bits", WIDTHS)
def test_searched_scales_lose_no_more_than_plain_ones_in_any_group(bits: int) -> None:
    values, weights = weight(40, 50), torch.rand(50, generator=torch.Generator().manual_seed(3)) ** 4
    plain, searched = round_to_nearest(values, bits, _GROUP), round_with_searched_scales(values, bits, _GROUP, weights)
    before, after = _group_errors(plain, values, weights), _group_errors(searched, values, weights)
    assert (after <= before * (1 + 1e-5)).all()
    assert after.sum() < 0.97 * before.sum()


@pytest.mark.parametrize("bits", [6, 4, 3, 2])
def test_searched_scales_come_near_the_best_of_all_scales(bits: int) -> None:
    group = 64
    values, weights = weight(30, group), torch.rand(group, generator=torch.Generator().manual_seed(3))
    found = _group_errors(round_with_searched_scales(values, bits, group, weights), values, weights).flatten()
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    least = []
    for row in values:
        scales = _all_scales(row).unsqueeze(1)
        errors = ((row / scales).round().clamp(low, high) * scales - row).double().square() * weights
        least.append(errors.sum(1).min())
    best = torch.stack(least)
    assert (found >= best * (1 - 1e-6)).all()
    assert found.sum() <= 1.15 * best.sum()


def test_a_weight_that_no_input_reaches_does_not_bend_the_scale() -> None:
    values = weight(8, _GROUP)
    values[:, 0] = 1.0
    weights = torch.ones(_GROUP)
    weights[0] = 0.0
    codes = round_with_searched_scales(values, 4, _GROUP, weights)
    alone = round_with_searched_scales(values, 4, _GROUP)
    rest = slice(1, None)
    assert (dequantise(codes) - values)[:, rest].norm() < 0.7 * (dequantise(alone) - values)[:, rest].norm()


@pytest.mark.parametrize("make", [round_to_nearest, round_with_searched_scales])
def test_an_empty_group_and_numbers_too_small_for_a_scale_become_zero(make: object) -> None:
    values = torch.zeros(2, 2 * _GROUP)
    values[1] = 1e-40
    values[0, -1] = 1.0
    read = dequantise(make(values, 4, _GROUP))
    assert read.isfinite().all()
    assert read[:, :_GROUP].abs().max() <= 1e-38
    assert read[0, -1] == 1.0


@pytest.mark.parametrize("features", [1, 15, 17, 40])
def test_rows_that_fill_no_whole_group_are_padded_with_code_zero(features: int) -> None:
    values = weight(3, features)
    codes = round_with_searched_scales(values, 3, _GROUP)
    assert codes.values.shape[1] % _GROUP == 0
    assert not codes.values[:, features:].any()
    assert dequantise(codes).shape == values.shape


def test_rows_taken_together_or_apart_give_the_same_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    values = weight(9, 40)
    whole = round_with_searched_scales(values, 3, _GROUP)
    monkeypatch.setattr(module, "_ELEMENTS_AT_ONCE", 80)
    parts = round_with_searched_scales(values, 3, _GROUP)
    assert torch.equal(whole.values, parts.values)
    assert torch.equal(whole.scales, parts.scales)


def test_half_precision_weights_are_read_as_they_are() -> None:
    values = weight(4, _GROUP).bfloat16()
    assert torch.equal(round_to_nearest(values, 5, _GROUP).values, round_to_nearest(values.float(), 5, _GROUP).values)
