"""Whitened inner products against an explicit inverse in feature space."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerlens.linalg.token_whitening import whitened_gram

FEATURES, COUNT = 30, 17


def _rows(count: int, *, large: float = 1.0) -> Tensor:
    rows = torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    # A few tokens far larger than the others, as language models have.
    rows[0] *= large
    return rows


def _explicit(whitened: Tensor, gram_rows: Tensor, damping: float) -> Tensor:
    gram = gram_rows.t() @ gram_rows / COUNT
    damped = gram + damping * gram.trace() / FEATURES * torch.eye(FEATURES, dtype=torch.float64)
    return whitened @ torch.linalg.inv(damped) @ whitened.t()


def _found(rows: Tensor, is_gram_row: Tensor, num_whitened: int, damping: float) -> Tensor:
    gram = rows @ rows.t()
    found = whitened_gram(gram, is_gram_row, num_whitened, features=FEATURES, count=COUNT, damping=damping)
    assert torch.equal(gram, rows @ rows.t())
    return found


@pytest.mark.parametrize("damping", [1e-4, 0.1, 10.0])
@pytest.mark.parametrize("large", [1.0, 1000.0])
@pytest.mark.parametrize("count", [4, 29, 45])
def test_rows_whitened_by_their_own_gram(count: int, large: float, damping: float) -> None:
    rows = _rows(count, large=large)
    expected = _explicit(rows, rows, damping)
    found = _found(rows, torch.ones(count, dtype=torch.bool), count, damping)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * expected.max().item())


@pytest.mark.parametrize("large", [1.0, 1000.0])
def test_rows_whitened_by_some_of_them_and_by_rows_beside(large: float) -> None:
    rows = _rows(20, large=large)
    is_gram_row = torch.tensor([True] * 9 + [False] * 3 + [True] * 8)
    expected = _explicit(rows[:12], rows[is_gram_row], 0.1)
    found = _found(rows, is_gram_row, 12, 0.1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * expected.max().item())


def test_rows_whitened_by_others_altogether() -> None:
    rows = _rows(20)
    is_gram_row = torch.arange(20) >= 12
    torch.testing.assert_close(_found(rows, is_gram_row, 12, 0.1), _explicit(rows[:12], rows[12:], 0.1))


def test_nothing_seen_cannot_be_whitened() -> None:
    rows = _rows(5)
    assert _found(rows, torch.zeros(5, dtype=torch.bool), 5, 0.1) is None
    nothing = torch.zeros(5, FEATURES, dtype=torch.float64)
    assert _found(nothing, torch.ones(5, dtype=torch.bool), 5, 0.1) is None
    # Squares of these are among the last few numbers above zero, and no Cholesky factor of them exists.
    tiny = 1e-23 * _rows(64).float()
    assert _found(tiny, torch.ones(64, dtype=torch.bool), 64, 0.1) is None
