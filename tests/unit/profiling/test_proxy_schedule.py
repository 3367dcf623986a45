"""Which layers proxies are measured on: counted, not clocked."""

from __future__ import annotations

from typing import Any

import pytest

from layerlens.artifacts.layers import LayerSpec
from layerlens.profiling.proxy_schedule import interpolated, proxy_layers
from layerlens.words import Role

ROLES = [Role.ATTENTION_QUERY, Role.MLP_UP]
BLOCKS = 6


def _layers() -> list[LayerSpec]:
    return [
        LayerSpec(layer=f"{block}.{role}", block=block, role=role, in_features=2, out_features=2, input_group="x")
        for block in range(BLOCKS)
        for role in ROLES
    ]


def _chosen(**settings: Any) -> list[str]:
    defaults = {"mode": "auto", "statistics_tokens": 1000, "train_tokens": 100, "held_out_tokens": 100}
    return proxy_layers(_layers(), BLOCKS, **(defaults | settings))


def _work(chosen: list[str], train_tokens: int, held_out_tokens: int) -> int:
    """Block passes: forward and backward of the steps, forward of the held-out samples, from the layer's block up."""
    return sum((2 * train_tokens + held_out_tokens) * (BLOCKS - int(name[0])) for name in chosen)


def test_all_layers_are_measured_where_that_costs_no_more_than_the_statistics() -> None:
    exact = _work([spec.layer for spec in _layers()], 100, 100)
    # The statistics take three passes of each token through each block.
    assert len(_chosen(statistics_tokens=-(-exact // (3 * BLOCKS)))) == 12
    assert len(_chosen(statistics_tokens=exact // (3 * BLOCKS) - 1)) < 12


@pytest.mark.parametrize("mode", ["auto", "few"])
def test_otherwise_as_many_of_each_role_as_the_statistics_cost(mode: str) -> None:
    # All layers but two fit, and auto and few agree on those that do.
    chosen = _chosen(mode=mode, statistics_tokens=500, train_tokens=100, held_out_tokens=100)
    per_role = {role: [name for name in chosen if name.endswith(f".{role}")] for role in ROLES}
    counts = {len(names) for names in per_role.values()}
    assert len(counts) == 1
    assert 1 <= counts.pop() < BLOCKS
    assert _work(chosen, 100, 100) <= 500 * 3 * BLOCKS
    assert all({name[0] for name in names} >= {"0", str(BLOCKS - 1)} for names in per_role.values())


def test_one_of_each_role_is_measured_whatever_it_costs() -> None:
    assert _chosen(statistics_tokens=1) == [f"3.{role}" for role in ROLES]


def test_all_and_off_mean_what_they_say() -> None:
    assert len(_chosen(mode="all", statistics_tokens=1)) == 12
    assert _chosen(mode="off") == []


def test_few_never_takes_a_layer_twice_and_keeps_forward_order() -> None:
    for tokens in range(1, 3000, 100):
        chosen = _chosen(mode="few", statistics_tokens=tokens)
        names = [spec.layer for spec in _layers()]
        assert chosen == [name for name in names if name in set(chosen)]


def test_unmeasured_layers_are_interpolated_by_depth_within_their_role() -> None:
    query, up = ROLES
    values = interpolated(_layers(), {f"1.{query}": 1.0, f"5.{query}": 3.0, f"2.{up}": 7.0})
    assert [values[f"{block}.{query}"] for block in range(BLOCKS)] == [1.0, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert [values[f"{block}.{up}"] for block in range(BLOCKS)] == [7.0] * 6
