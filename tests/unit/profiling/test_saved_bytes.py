"""Saved storages are counted once, where they are first saved, and not those that are there anyway."""

from __future__ import annotations

import torch

from layerlens.profiling.saved_bytes import saved_bytes


def test_a_product_keeps_its_factors_once_and_what_is_known_not_at_all() -> None:
    values, weight = torch.ones(3, 5, requires_grad=True), torch.ones(5, 7, requires_grad=True)
    with saved_bytes([weight], lambda: 0) as counted:
        # Each product keeps both its factors: x and W.
        _ = values @ weight, values @ weight
    assert counted == {0: 3 * 5 * 4}


def test_a_storage_counts_where_it_is_first_saved_and_none_leaves_it_to_a_later_save() -> None:
    first, second = torch.ones(3, requires_grad=True), torch.ones(5, requires_grad=True)
    place: int | None = None
    with saved_bytes([], lambda: place) as counted:
        first.square()
        assert not counted
        place = 4
        first.square()
        place = 7
        _ = first.square(), second.square()
    assert counted == {4: 3 * 4, 7: 5 * 4}
