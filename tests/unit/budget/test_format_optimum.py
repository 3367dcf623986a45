"""The choice of formats against every combination and against HiGHS, on losses of many magnitudes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerlens.artifacts.formats import KEEP
from layerlens.budget.format_menu import Offer
from layerlens.budget.format_optimum import TOLERANCE, optimal_formats, staircase
from layerlens.budget.solver import OPTIMAL
from tests.unit.budget.small_curves import best_of_all, milp_loss, small


def offers(seed: int, num_groups: int, num_offers: int, magnitudes: float) -> list[list[Offer]]:
    """Offers with losses over many powers of ten; some as large as others, some pointless."""
    rng = np.random.default_rng(seed)
    groups = []
    for _ in range(num_groups):
        sizes = rng.integers(1, 40, num_offers)
        losses = 10.0 ** rng.uniform(-magnitudes, 2, num_offers) * (rng.random(num_offers) > 0.1)
        groups.append([Offer(KEEP, (), int(size), float(loss)) for size, loss in zip(sizes, losses, strict=True)])
    return groups


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 5), st.sampled_from([0.5, 4.0, 12.0]), st.floats(0.0, 1.1))
def test_it_finds_the_best_of_all_combinations(seed: int, groups: int, num: int, magnitudes: float, share: float) -> None:
    choices = offers(seed, groups, num, magnitudes)
    room = int(share * sum(max(each.size_bytes for each in group) for group in choices))
    found, best = optimal_formats(choices, room), best_of_all(choices, room)
    assert (found is None) == (best == np.inf)
    if found is not None:
        assert sum(each.size_bytes for each in found.selection) <= room
        assert found.loss == pytest.approx(sum(each.loss for each in found.selection))
        assert best * (1 - 1e-12) <= found.loss <= best * (1 + 2 * TOLERANCE)
        assert found.bound <= best * (1 + 1e-9)
        assert found.status == OPTIMAL


@pytest.mark.parametrize("bits", [2.6, 3.5, 5.0, 7.5])
def test_it_agrees_with_highs_on_a_whole_model(bits: float) -> None:
    curves = small(3)
    choices = [matrix.options for matrix in curves.matrices]
    room = int(bits * curves.model.num_parameters / 8) - curves.model.other_bytes
    wrapped = [[Offer(each.scheme, (each,), each.size_bytes, each.predicted_loss) for each in options] for options in choices]
    found = optimal_formats(wrapped, room)
    assert found is not None
    assert found.status == OPTIMAL
    assert found.gap <= TOLERANCE
    assert found.loss == pytest.approx(milp_loss(choices, room), rel=3e-6)


def test_the_gap_is_one_of_the_loss_even_where_the_cheapest_offers_lose_a_million_times_more() -> None:
    rng = np.random.default_rng(0)
    groups = []
    for _ in range(40):
        fine = np.sort(10.0 ** rng.uniform(-9, -6, 12))[::-1]
        sizes = np.sort(rng.choice(np.arange(1000, 4000), 12, replace=False))
        steps = [Offer(KEEP, (), int(size), float(loss)) for size, loss in zip(sizes, fine, strict=True)]
        groups.append([Offer(KEEP, (), 10, float(rng.uniform(1e3, 1e4))), *steps])
    room = 40 * 2500
    found = optimal_formats(groups, room)
    assert found is not None
    assert found.status == OPTIMAL
    assert found.loss < 1e-4
    assert found.loss - found.bound <= TOLERANCE * found.loss


def test_a_staircase_keeps_what_loses_less_for_more_bytes() -> None:
    made = [Offer(KEEP, (), size, loss) for size, loss in [(3, 1.0), (1, 4.0), (2, 4.0), (1, 5.0), (5, 1.0), (4, 0.5)]]
    assert [(each.size_bytes, each.loss) for each in staircase(made)] == [(1, 4.0), (3, 1.0), (4, 0.5)]
