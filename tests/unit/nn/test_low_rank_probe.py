"""The probe starts as nothing, and is a low-rank change of the weight."""

from __future__ import annotations

import torch
from torch import nn

from layerlens.nn.low_rank_probe import LowRankProbe


def _probe(seed: int = 0) -> LowRankProbe:
    return LowRankProbe(6, 4, 2, scaling=3.0, generator=torch.Generator().manual_seed(seed))


def test_a_fresh_probe_changes_nothing() -> None:
    layer, x = nn.Linear(6, 4), torch.randn(2, 5, 6)
    before = layer(x)
    with _probe().beside(layer):
        assert torch.equal(layer(x), before)


def test_a_probe_adds_scaling_times_up_down_to_the_weight_until_it_is_taken_away() -> None:
    layer, x = nn.Linear(6, 4), torch.randn(2, 5, 6)
    before, probe = layer(x), _probe()
    nn.init.normal_(probe.up)
    merged = nn.functional.linear(x, layer.weight + 3.0 * probe.up @ probe.down, layer.bias)
    with probe.beside(layer):
        torch.testing.assert_close(layer(x), merged)
    assert torch.equal(layer(x), before)


def test_the_start_is_seeded_and_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = _probe()
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.down, _probe().down)
    assert not torch.equal(first.down, _probe(seed=1).down)
