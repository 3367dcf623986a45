"""The size found reaches the cosine, and nothing smaller does."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from layerlens.artifacts.compression import Curves, Option
from layerlens.artifacts.formats import Format
from layerlens.budget import cosine_target
from layerlens.budget.cosine_target import mean_cosine, smallest_for_cosine
from layerlens.budget.format_menu import Menu, Offer, Selection, menu_of
from layerlens.budget.format_optimum import optimal_formats
from layerlens.config import CompressConfig
from layerlens.errors import InfeasibleBudgetError
from tests.unit.budget.small_curves import small, tiny


def menu(curves: Curves, **policies: object) -> Menu:
    return menu_of(curves, CompressConfig(cosine=0.9, **policies))  # type: ignore[arg-type]


def reached(made: Menu, selection: Selection) -> float:
    return mean_cosine(made.options_of(selection))


def test_the_mean_is_over_matrices_and_a_kept_one_counts_as_one() -> None:
    option = small().matrices[1].options[0]
    errors = [0.0, 0.6, 2.0]
    made = [option.model_copy(update={"output_error": error}) for error in errors]
    assert mean_cosine(made) == pytest.approx((1.0 + 0.8 + 0.0) / 3)


def with_errors_of_their_own(curves: Curves, seed: int) -> Curves:
    """Curves whose output errors say nothing of the predicted losses: the rounding that loses less may be the coarser one."""
    rng = np.random.default_rng(seed)

    def drawn(option: Option) -> Option:
        is_kept = option.scheme.format is Format.KEEP
        return option.model_copy(update={"output_error": 0.0 if is_kept else float(10 ** rng.uniform(-3, 0))})

    matrices = [one.model_copy(update={"options": [drawn(option) for option in one.options]}) for one in curves.matrices]
    return curves.model_copy(update={"matrices": matrices})


@pytest.mark.parametrize("is_drawn", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_no_combination_of_options_reaches_the_target_in_fewer_bytes(seed: int, is_drawn: bool) -> None:
    curves = with_errors_of_their_own(tiny(seed), seed) if is_drawn else tiny(seed)
    made = menu(curves)
    every = [
        (mean_cosine(options), sum(option.size_bytes for option in options))
        for options in itertools.product(*(matrix.options for matrix in curves.matrices))
    ]
    # Cosines that some combination reaches to the last digit are the hardest targets.
    exact = [every[place][0] for place in range(0, len(every), len(every) // 4)]
    for target in (0.5, 0.9, 0.97, 0.995, 0.99999, 1.0, *exact):
        found = smallest_for_cosine(made, target)
        least = min(size for cosine, size in every if cosine >= target)
        assert made.size_of(found.selection) - made.other_bytes == least
        assert reached(made, found.selection) >= target
        assert found.gap_bytes == 0


@pytest.mark.parametrize("group_by", ["none", "fused"])
@pytest.mark.parametrize("target", [0.9, 0.97, 0.995, 0.9999])
def test_the_highest_cosine_of_a_byte_less_misses_the_target(target: float, group_by: str) -> None:
    made = menu(small(0), group_by=group_by)
    found = smallest_for_cosine(made, target)
    assert reached(made, found.selection) >= target
    assert found.gap_bytes == 0
    # The same knapsack the other way round: least cosine lost within bytes.
    lost = [[replace(offer, loss=deficit(offer)) for offer in group.offers] for group in made.groups]
    room = sum(offer.size_bytes for offer in found.selection) - 1
    best = optimal_formats(lost, room)
    assert best is not None
    assert best.bound > len(made.curves.matrices) * (1 - target)


def deficit(offer: Offer) -> float:
    return math.fsum(1 - mean_cosine([option]) for option in offer.options)


def test_where_counting_down_falls_short_of_the_target_costs_are_counted_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosine_target, "UNITS", 64)
    made = menu(small(0))
    for target in (0.9, 0.95, 0.99):
        assert reached(made, smallest_for_cosine(made, target).selection) >= target


def test_a_target_that_the_cheapest_formats_reach_takes_these() -> None:
    made = menu(small(1))
    assert made.size_of(smallest_for_cosine(made, 0.01).selection) == made.smallest_bytes


def test_a_target_out_of_reach_names_what_is_within_it() -> None:
    curves = small(2)
    lossy = [
        one.model_copy(update={"options": [each for each in one.options if each.output_error > 0]}) for one in curves.matrices
    ]
    with pytest.raises(InfeasibleBudgetError, match=r"cosine: 1 is out of reach, .* reach 0\.9999"):
        smallest_for_cosine(menu(curves.model_copy(update={"matrices": lossy})), 1.0)
    made = menu(curves)
    assert reached(made, smallest_for_cosine(made, 1.0).selection) == 1.0
