"""Descent against single changes tried one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerlens.linalg.code_descent import descend_, moved
from layerlens.linalg.codes import dequantise
from layerlens.linalg.nearest_rounding import round_to_nearest
from tests.unit.linalg.rounding_cases import gram, loss, weight

_GROUP, _BITS = 8, 3


def _descended(values: Tensor, inner: Tensor, outer: Tensor | None, sweeps: int, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
    """Codes [rows features] and scales [rows groups] after the descent from nearest rounding."""
    start = round_to_nearest(values, _BITS, _GROUP)
    codes, scales = start.values.t().contiguous(), start.scales.float().t().contiguous()
    descend_(values.t().contiguous(), codes, scales, inner, ridge, outer, _BITS, sweeps)
    return codes.t(), scales.t()


def _read(codes: Tensor, scales: Tensor) -> Tensor:
    return codes.float() * scales.repeat_interleave(_GROUP, dim=1)


@pytest.mark.parametrize("is_two_sided", [False, True])
def test_the_loss_falls_with_every_sweep(is_two_sided: bool) -> None:
    values, inner = weight(20, 32), gram(32)
    outer = gram(20, seed=2) + 1e-3 * torch.eye(20) if is_two_sided else None
    losses = [loss(dequantise(round_to_nearest(values, _BITS, _GROUP)) - values, inner, outer)]
    losses += [loss(_read(*_descended(values, inner, outer, sweeps)) - values, inner, outer) for sweeps in (1, 2, 4)]
    assert losses[0] > 1.2 * losses[1]
    assert losses[1] >= losses[2] * (1 - 1e-4) >= losses[3] * (1 - 2e-4)


@pytest.mark.parametrize("sweeps", [0, 1])
def test_what_every_row_loses_is_told_with_its_ridge(sweeps: int) -> None:
    values, inner, ridge = weight(20, 32), gram(32), 0.3
    start = round_to_nearest(values, _BITS, _GROUP)
    codes, scales = start.values.t().contiguous(), start.scales.float().t().contiguous()
    losses = descend_(values.t().contiguous(), codes, scales, inner, ridge, None, _BITS, sweeps)
    error = (_read(codes.t(), scales.t()) - values).double()
    expected = ((error @ (inner.double() + ridge * torch.eye(32))) * error).sum(1)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-4, atol=0)


def test_in_the_end_no_single_code_can_be_changed_for_the_better() -> None:
    values, inner = weight(3, 16), gram(16)
    codes, scales = _descended(values, inner, None, sweeps=50)
    error = (_read(codes, scales) - values).double()
    least = ((error @ inner.double()) * error).sum(1)
    for row in range(3):
        for column in range(16):
            for code in range(-(1 << (_BITS - 1)), 1 << (_BITS - 1)):
                tried = error[row].clone()
                tried[column] = code * scales[row, column // _GROUP].double() - values[row, column].double()
                assert tried @ inner.double() @ tried >= least[row] * (1 - 1e-4)


def test_scales_stay_those_that_bfloat16_holds_and_codes_within_their_width() -> None:
    codes, scales = _descended(weight(20, 32), gram(32), None, sweeps=3)
    assert torch.equal(scales, scales.bfloat16().float())
    assert codes.min() >= -4
    assert codes.max() <= 3


def test_no_row_loses_by_one_visit() -> None:
    values, inner = weight(40, 16), gram(16)
    squares = inner[:_GROUP, :_GROUP].unsqueeze(0)
    start = round_to_nearest(values[:, :_GROUP], _BITS, _GROUP)
    codes, scales = start.values.float().t().unsqueeze(0), start.scales.float().t()
    target = values[:, :_GROUP].t().unsqueeze(0)

    def forms(codes: Tensor, scales: Tensor) -> Tensor:
        error = (codes * scales.unsqueeze(1) - target).double()
        return ((squares.double() @ error) * error).sum(1)

    after = moved(squares @ (codes * scales.unsqueeze(1) - target), squares, codes, scales, _BITS)
    assert (forms(*after) <= forms(codes, scales) * (1 + 1e-4)).all()
    assert forms(*after).sum() < 0.9 * forms(codes, scales).sum()


def test_inputs_that_were_never_seen_keep_their_nearest_codes() -> None:
    values, inner = weight(6, 32), gram(32)
    inner[8:16] = inner[:, 8:16] = 0.0
    codes, scales = _descended(values, inner, None, sweeps=3)
    start = round_to_nearest(values, _BITS, _GROUP)
    assert torch.equal(codes[:, 8:16], start.values[:, 8:16])
    assert torch.equal(scales[:, 1], start.scales[:, 1].float())


def test_a_ridge_is_part_of_the_gram() -> None:
    values, inner = weight(6, 32), gram(32)
    apart = _descended(values, inner, None, 3, ridge=0.5)
    within = _descended(values, inner + 0.5 * torch.eye(32), None, 3)
    assert torch.equal(apart[0], within[0])
    torch.testing.assert_close(apart[1], within[1])
