"""Accumulated Grams against the full matrix product."""

from __future__ import annotations

import pytest
import torch

from layerlens.linalg import gram as module
from layerlens.linalg.gram import add_gram_, completed


@pytest.mark.parametrize("features", [1, 5, 256, 259])
def test_accumulated_gram_is_the_sum_of_outer_products(features: int) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(rows, features, generator=generator) for rows in (3, 40)]
    gram = torch.zeros(features, features)
    for rows in batches:
        add_gram_(gram, rows)
    stacked = torch.cat(batches).double()
    torch.testing.assert_close(completed(gram).double(), stacked.t() @ stacked, rtol=1e-4, atol=1e-4)


def test_the_completed_gram_is_exactly_symmetric() -> None:
    gram = torch.zeros(300, 300)
    add_gram_(gram, torch.randn(50, 300, generator=torch.Generator().manual_seed(1)))
    full = completed(gram)
    assert torch.equal(full, full.t())


def test_blocks_below_the_diagonal_are_not_computed() -> None:
    features = 4 * module._SMALLEST_BLOCKED
    gram = torch.zeros(features, features)
    add_gram_(gram, torch.ones(2, features))
    assert gram[-1, 0] == 0
    assert gram[0, -1] == 2
