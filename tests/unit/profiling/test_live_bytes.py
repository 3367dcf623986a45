"""Storages count from when they are made until their last tensor is gone."""

from __future__ import annotations

import torch

from layerlens.profiling.live_bytes import LiveBytes


def test_views_count_once_what_is_known_not_at_all_and_what_is_gone_no_longer() -> None:
    weight = torch.ones(3, 5, requires_grad=True)
    with LiveBytes([weight]) as live:
        first = weight.t().contiguous()
        again = first.view(15)
        assert live.num_bytes == 15 * 4
        del first
        assert live.num_bytes == 15 * 4
        del again
        assert (live.num_bytes, live.peak_bytes) == (0, 15 * 4)


def test_what_a_graph_keeps_lives_until_the_backward_pass_lets_it_go() -> None:
    values = torch.ones(3, 5, requires_grad=True)
    with LiveBytes([values]) as live:
        total = values.exp().exp().sum()
        # Each exponential keeps its result.
        assert live.num_bytes == 2 * 15 * 4 + 4
        total.backward()
        # Its own gradient is left, beside the total.
        assert live.num_bytes == 15 * 4 + 4
