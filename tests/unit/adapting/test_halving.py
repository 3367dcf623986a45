"""The schedule of a race is arithmetic: who runs, how long, and that the budget is kept."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerlens.adapting.halving import Rung, field_sizes, lay_out, rungs_for, survivors, total_cost


@pytest.mark.parametrize(
    ("number", "sizes"), [(1, (1,)), (2, (2,)), (3, (3,)), (4, (4, 2)), (5, (5, 3)), (8, (8, 4, 2)), (24, (24, 12, 6, 3))]
)
def test_the_field_halves_until_three_or_fewer_are_left(number: int, sizes: tuple[int, ...]) -> None:
    assert field_sizes(number) == sizes


def test_eight_candidates_screen_on_one_seed_and_finish_on_two() -> None:
    rungs = rungs_for(8, final_steps=40, num_seeds=2, shortest=10)
    assert rungs == (Rung(8, 10, 1), Rung(4, 20, 2), Rung(2, 40, 2))
    assert total_cost(rungs) == 8 * 10 + 4 * 20 * 2 + 2 * 40 * 2


def test_no_horizon_is_shorter_than_the_shortest_allowed() -> None:
    assert [rung.steps for rung in rungs_for(24, final_steps=20, num_seeds=2, shortest=10)] == [10, 10, 10, 20]


def test_a_field_of_two_has_one_rung_with_all_seeds() -> None:
    assert rungs_for(2, final_steps=20, num_seeds=3, shortest=10) == (Rung(2, 20, 3),)


def test_a_budget_too_small_for_any_race_still_runs_two_candidates_at_the_minimum() -> None:
    rungs = lay_out(20, budget_steps=10, longest=100, min_steps=20, num_seeds=2)
    assert rungs == (Rung(2, 20, 2),)


def test_a_budget_for_everyone_is_spent_on_longer_horizons() -> None:
    rungs = lay_out(4, budget_steps=1200, longest=1000, min_steps=20, num_seeds=2)
    assert [rung.num_candidates for rung in rungs] == [4, 2]
    assert total_cost(rungs) <= 1200
    longer = rungs_for(4, final_steps=rungs[-1].steps + 1, num_seeds=2, shortest=10)
    assert total_cost(longer) > 1200


def test_no_run_is_longer_than_the_tuning_run() -> None:
    assert lay_out(2, budget_steps=10_000, longest=50, min_steps=20, num_seeds=2)[-1].steps == 50


@given(
    available=st.integers(2, 40),
    budget=st.integers(1, 20_000),
    longest=st.integers(1, 2_000),
    min_steps=st.integers(1, 60),
    num_seeds=st.integers(2, 4),
)
def test_every_layout_keeps_the_budget_or_is_the_smallest_race(
    available: int, budget: int, longest: int, min_steps: int, num_seeds: int
) -> None:
    rungs = lay_out(available, budget_steps=budget, longest=longest, min_steps=min_steps, num_seeds=num_seeds)
    assert rungs[-1].steps >= min_steps
    assert rungs[-1].num_seeds == num_seeds
    assert all(early.steps <= late.steps for early, late in pairwise(rungs))
    assert total_cost(rungs) <= budget or rungs == (Rung(2, min_steps, num_seeds),)


def test_the_better_half_survives_in_its_order_and_uniform_whatever_its_loss() -> None:
    losses = {"uniform": 9.0, "a": 3.0, "b": 1.0, "c": 2.0}
    assert survivors(losses, 2, exempt="uniform") == ["uniform", "b"]
    assert survivors(losses, 3, exempt="uniform") == ["uniform", "b", "c"]
    assert survivors(losses, 2, exempt=None) == ["b", "c"]


def test_a_diverged_uniform_is_not_brought_back() -> None:
    assert survivors({"a": 1.0, "b": 2.0}, 1, exempt="uniform") == ["a"]
