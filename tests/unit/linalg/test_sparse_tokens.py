"""Tokens with a value against a full search."""

from __future__ import annotations

import torch

from layerlens.linalg.sparse_tokens import at_tokens, few_with_value, has_value


def _values() -> torch.Tensor:
    values = torch.zeros(3, 8, 6)
    values[0, 2] = 1.0
    # Zero in the columns that are looked at first.
    values[1, 5, 5] = -1.0
    values[1, 7, 0] = 2.0
    return values


def test_tokens_with_a_value_are_found_wherever_it_lies() -> None:
    assert torch.equal(has_value(_values()), (_values() != 0).any(dim=-1))
    dense = torch.ones(2, 3, 6)
    assert has_value(dense).all()


def test_few_tokens_are_gathered_with_all_their_values() -> None:
    values = _values()
    positions = few_with_value(values)
    assert positions.shape == (3, 2)
    found = at_tokens(values, positions)
    torch.testing.assert_close(found.transpose(1, 2) @ found, values.transpose(1, 2) @ values)
    assert sorted(positions[1].tolist()) == [5, 7]


def test_many_tokens_are_left_as_they_are() -> None:
    values = _values()
    values[2, :5] = 1.0
    assert few_with_value(values) is None
    assert few_with_value(torch.zeros(2, 1, 3)) is None
