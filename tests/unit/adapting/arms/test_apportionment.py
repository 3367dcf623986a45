"""Ranks follow the scores, and spend the parameters to the unit wherever that can be done."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerlens.adapting.arms.apportionment import apportion, spread_order

LAYERS = st.lists(
    st.tuples(st.floats(0, 10, allow_subnormal=False), st.sampled_from([2, 3, 5, 6, 10]), st.integers(0, 4)),
    min_size=1,
    max_size=7,
)


def most_below(costs: list[int], caps: list[int], params: int) -> int:
    """The largest number up to `params` that these layers can spend, by listing them all."""
    sums = {0}
    for cost, cap in zip(costs, caps, strict=True):
        sums = {before + cost * rank for before in sums for rank in range(cap + 1)}
    return max(found for found in sums if found <= params)


@settings(max_examples=300, deadline=None)
@given(LAYERS, st.integers(0, 80))
def test_no_other_ranks_of_the_scored_layers_come_closer_from_below(layers: list[tuple[float, int, int]], params: int) -> None:
    scores, costs, caps = (list(part) for part in zip(*layers, strict=True))
    ranks = apportion(scores, costs, caps, params)
    assert all(0 <= rank <= (cap if score > 0 else 0) for rank, cap, score in zip(ranks, caps, scores, strict=True))
    scored = [number for number, score in enumerate(scores) if score > 0]
    best = most_below([costs[number] for number in scored], [caps[number] for number in scored], params)
    assert sum(cost * rank for cost, rank in zip(costs, ranks, strict=True)) == best


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=8, unique=True), st.integers(0, 40))
def test_at_one_price_it_is_the_largest_remainder(scores: list[float], seats: int) -> None:
    quotas = [seats * score / sum(scores) for score in scores]
    remainders = [quota - math.floor(quota) for quota in quotas]
    # Quotas that are whole but for rounding, and remainders that are equal, may be told apart either way.
    if any(abs(quota - round(quota)) < 1e-6 for quota in quotas) or len({round(one, 6) for one in remainders}) < len(scores):
        return
    expected = [math.floor(quota) for quota in quotas]
    for number in sorted(range(len(scores)), key=lambda number: -remainders[number])[: seats - sum(expected)]:
        expected[number] += 1
    assert apportion(scores, [7] * len(scores), [100] * len(scores), 7 * seats) == expected


@pytest.mark.parametrize("extra", [384 * 4, 384 * 11, 384 * 40])
def test_equal_scores_are_uniform_with_the_rest_spread_over_depth_and_roles(extra: int) -> None:
    # A 6-block encoder of width 384: four square matrices and two of the MLP in each block.
    costs = [768, 768, 768, 768, 1920, 1920] * 6
    params = 2 * sum(costs) + extra
    ranks = np.array(apportion([1.0] * 36, costs, [384] * 36, params))
    assert int(np.array(costs) @ ranks) == params
    assert set(ranks.tolist()) == {2, 3}
    more = np.flatnonzero(ranks == 3)
    per_third = [int(((more >= start) & (more < start + 12)).sum()) for start in (0, 12, 24)]
    assert max(per_third) - min(per_third) <= 2
    if len(more) >= 12:
        assert set((more % 6).tolist()) == set(range(6))


def test_where_the_rest_cannot_be_made_up_single_ranks_are_given_back() -> None:
    # 2 and 5 cannot make 1 or 3, so a layer gives a rank up for another to take.
    for rest in (1, 3):
        ranks = apportion([1.0] * 6, [2, 2, 2, 2, 5, 5], [50] * 6, 3 * 18 + rest)
        assert sum(cost * rank for cost, rank in zip([2, 2, 2, 2, 5, 5], ranks, strict=True)) == 3 * 18 + rest
        assert all(abs(rank - 3) <= 1 for rank in ranks)


def test_a_budget_beyond_all_caps_fills_every_layer() -> None:
    assert apportion([1.0, 5.0], [3, 4], [2, 3], 10**9) == [2, 3]


def test_a_large_budget_of_a_large_model_is_met_to_the_unit() -> None:
    # Shapes of a 7-billion model: sums in units of their divisor go past any table.
    costs = [8192, 8192, 8192, 8192, 15104, 15104, 15104] * 32
    for params in (256 * 160_001, 256 * 79_999):
        ranks = apportion([1.0] * len(costs), costs, [4096] * len(costs), params)
        assert sum(cost * rank for cost, rank in zip(costs, ranks, strict=True)) == params
        assert max(ranks) - min(ranks) <= 2


@pytest.mark.parametrize("num", [1, 2, 3, 6, 7, 36, 100])
def test_every_beginning_of_the_order_is_spread(num: int) -> None:
    order = spread_order(num)
    assert sorted(order) == list(range(num))
    for length in range(1, num):
        ends = sorted(order[:length])
        gaps = np.diff([*ends, ends[0] + num])
        assert gaps.max() <= math.ceil(3 * num / length)
