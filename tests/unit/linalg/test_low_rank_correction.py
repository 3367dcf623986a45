"""Codes and factors together against their own parts, multiplied out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerlens.linalg.codes import dequantise
from layerlens.linalg.error_feedback import input_feedback, output_feedback
from layerlens.linalg.low_rank_correction import Correction, corrected
from layerlens.linalg.second_order_rounding import second_order_rounding
from tests.unit.linalg.rounding_cases import gram, loss, weight

_GROUP, _RANK = 8, 6


def _error(found: Correction, values: Tensor, rank: int) -> Tensor:
    return dequantise(found.codes) + found.factors.up[:rank].t() @ found.factors.down[:rank] - values


@pytest.mark.parametrize("kind", ["none", "diagonal", "full"])
def test_every_rank_is_priced_as_codes_and_factors_together(kind: str) -> None:
    values, inner, full = weight(24, 40), gram(40), gram(24, seed=2)
    outer = {"none": None, "diagonal": full.diagonal().clone(), "full": full}[kind]
    matrix = outer.diag() if kind == "diagonal" else outer
    found = corrected(values, 3, _GROUP, inner, outer, _RANK)
    for rank in range(_RANK + 1):
        priced = found.factors.loss_of_rank[rank].item()
        assert priced == pytest.approx(loss(_error(found, values, rank), inner, matrix), rel=1e-3)


@pytest.mark.parametrize("bits", [4, 2])
def test_each_round_keeps_the_best_so_far(bits: int) -> None:
    values, inner, outer = weight(24, 40), gram(40), gram(24, seed=2)
    losses = [
        corrected(values, bits, _GROUP, inner, outer, _RANK, rounds=rounds).factors.loss_of_rank[-1].item()
        for rounds in (1, 2, 4)
    ]
    assert losses[0] >= losses[1] >= losses[2]
    alone = second_order_rounding(values, inner, bits, _GROUP, output_gram=outer)
    assert losses[0] < 0.8 * loss(dequantise(alone) - values, inner, outer)


def test_one_round_corrects_the_codes_that_stand_alone() -> None:
    values, inner, outer = weight(24, 40), gram(40), gram(24, seed=2)
    inputs, outputs = input_feedback(inner, _GROUP), output_feedback(outer)
    found = corrected(values, 3, _GROUP, inner, outer, _RANK, rounds=1, inputs=inputs, outputs=outputs)
    alone = second_order_rounding(values, inputs, 3, _GROUP, output_gram=outputs)
    assert torch.equal(found.codes.values, alone.values)
    assert torch.equal(found.codes.scales, alone.scales)


def test_factors_of_all_ranks_make_good_whatever_the_codes_lost() -> None:
    values, inner, outer = weight(24, 40), gram(40), gram(24, seed=2)
    found = corrected(values, 2, _GROUP, inner, outer, 24, rounds=1)
    torch.testing.assert_close(_error(found, values, 24), torch.zeros_like(values), rtol=0, atol=1e-4)


def test_no_round_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one round, got rounds = 0"):
        corrected(weight(8, 8), 4, _GROUP, gram(8), None, 2, rounds=0)
