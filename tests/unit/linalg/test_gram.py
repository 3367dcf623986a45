"""Accumulated Grams against the full matrix product."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerlens.linalg import gram as module
from layerlens.linalg.gram import GramSum, gram_bytes, keeps_rows, row_gram


def _batches(features: int, counts: tuple[int, ...] = (3, 40)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, features, generator=generator) for rows in counts]


def _sum(features: int, expected_rows: int, counts: tuple[int, ...] = (3, 40)) -> GramSum:
    gram = GramSum(features, expected_rows)
    for rows in _batches(features, counts):
        gram.add(rows)
    return gram


@pytest.mark.parametrize("expected_rows", [43, 10_000], ids=["as rows", "packed"])
@pytest.mark.parametrize("features", [1, 5, 256, 259])
def test_accumulated_gram_is_the_sum_of_outer_products(features: int, expected_rows: int) -> None:
    gram = _sum(features, expected_rows)
    stacked = torch.cat(_batches(features)).double()
    torch.testing.assert_close(gram.full().double(), stacked.t() @ stacked, rtol=1e-4, atol=1e-4)
    assert gram.trace() == pytest.approx(stacked.square().sum().item(), rel=1e-5)
    assert gram.num_rows == 43
    assert (gram.rows is None) == (features < 256 or expected_rows > 43)


@pytest.mark.parametrize("expected_rows", [50, 10_000])
def test_the_full_gram_is_exactly_symmetric(expected_rows: int) -> None:
    full = _sum(300, expected_rows).full()
    assert torch.equal(full, full.t())


def test_more_rows_than_expected_are_kept_too() -> None:
    gram = _sum(256, 10, counts=(8, 9, 30))
    stacked = torch.cat(_batches(256, (8, 9, 30)))
    torch.testing.assert_close(gram.rows, stacked)
    torch.testing.assert_close(gram.full(), stacked.t() @ stacked)


def test_packed_blocks_leave_out_what_lies_below_the_diagonal() -> None:
    features = 4 * module._SMALLEST_BLOCKED
    gram = GramSum(features, 10 * features)
    gram.add(torch.ones(2, features))
    held = sum(block.numel() * 4 for block in gram._blocks)
    assert held == gram_bytes(features, 10 * features) == 4 * features**2 * 5 // 8
    assert gram.full().unique().tolist() == [2.0]


def test_rows_are_kept_where_they_are_at_most_half_as_many_as_features() -> None:
    assert keeps_rows(1000, 500)
    assert not keeps_rows(1000, 501)
    assert not keeps_rows(100, 5)
    assert gram_bytes(1000, 500) == 4 * 1000 * 500


@pytest.mark.parametrize("count", [1, 255, 256, 301])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inner_products_of_rows_are_those_of_the_full_product(count: int, dtype: torch.dtype) -> None:
    rows = torch.randn(count, 37, generator=torch.Generator().manual_seed(0))
    found = row_gram(rows, dtype)
    assert found.dtype == dtype
    assert torch.equal(found, found.t())
    torch.testing.assert_close(
        found.double(), rows.double() @ rows.double().t(), rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-12
    )


def test_inner_products_of_no_rows_are_none() -> None:
    assert row_gram(torch.zeros(0, 5), torch.float64).shape == (0, 0)
