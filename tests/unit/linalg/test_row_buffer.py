"""Rows that arrive in parts are those that were given."""

from __future__ import annotations

import pytest
import torch

from layerlens.linalg.row_buffer import RowBuffer


@pytest.mark.parametrize("capacity", [0, 3, 10, 100])
def test_rows_come_back_in_order_whether_more_or_fewer_came_than_expected(capacity: int) -> None:
    parts = [torch.randn(count, 4, generator=torch.Generator().manual_seed(count)) for count in (2, 0, 5, 3)]
    buffer = RowBuffer(capacity)
    assert buffer.rows is None
    for part in parts:
        buffer.append(part)
    assert torch.equal(buffer.rows, torch.cat(parts))
    assert len(buffer) == 10


def test_rows_keep_their_type_and_are_copies() -> None:
    rows = torch.ones(2, 3, dtype=torch.bfloat16)
    buffer = RowBuffer(2)
    buffer.append(rows)
    rows.zero_()
    assert buffer.rows.dtype == torch.bfloat16
    assert buffer.rows.sum() == 6


def test_nothing_is_copied_again_while_there_is_room() -> None:
    buffer = RowBuffer(6)
    buffer.append(torch.ones(2, 3))
    first = buffer.rows.data_ptr()
    buffer.append(torch.ones(4, 3))
    assert buffer.rows.data_ptr() == first
    buffer.clear()
    assert buffer.rows is None
    assert len(buffer) == 0
