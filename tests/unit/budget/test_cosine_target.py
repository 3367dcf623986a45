"""The size found reaches the cosine, and the best plan a little below it does not."""

from __future__ import annotations

import pytest

from layerlens.budget.cosine_target import mean_cosine, smallest_for_cosine
from layerlens.budget.format_menu import Menu, menu_of
from layerlens.budget.format_optimum import optimal_formats
from layerlens.config import CompressConfig
from layerlens.errors import InfeasibleBudgetError
from tests.unit.budget.small_curves import best_of_all, small, tiny


def menu(seed: int, **policies: object) -> Menu:
    return menu_of(small(seed), CompressConfig(cosine=0.9, **policies))  # type: ignore[arg-type]


def test_the_mean_is_over_matrices_and_a_kept_one_counts_as_one() -> None:
    option = small().matrices[1].options[0]
    errors = [0.0, 0.6, 2.0]
    made = [option.model_copy(update={"output_error": error}) for error in errors]
    assert mean_cosine(made) == pytest.approx((1.0 + 0.8 + 0.0) / 3)


@pytest.mark.parametrize("target", [0.9, 0.97, 0.995, 0.9999])
def test_a_byte_less_does_not_reach_the_target(target: float) -> None:
    made = menu(0)
    found = smallest_for_cosine(made, target)
    room = sum(offer.size_bytes for offer in found.selection)
    assert mean_cosine(made.options_of(found.selection)) >= target
    best = optimal_formats([group.offers for group in made.groups], room)
    assert best is not None
    assert found.loss == pytest.approx(best.loss, rel=2e-6)
    less = optimal_formats([group.offers for group in made.groups], room - 1)
    assert less is not None
    assert mean_cosine(made.options_of(less.selection)) < target


@pytest.mark.parametrize("seed", range(4))
def test_the_plan_is_the_best_of_all_combinations_of_its_bytes(seed: int) -> None:
    made = menu_of(tiny(seed), CompressConfig(cosine=0.9))
    offers = [group.offers for group in made.groups]
    for target in (0.95, 0.99, 0.999):
        found = smallest_for_cosine(made, target)
        room = sum(offer.size_bytes for offer in found.selection)
        assert found.loss == pytest.approx(best_of_all(offers, room), rel=2e-6, abs=1e-15)


@pytest.mark.parametrize("share", [0.1, 0.27, 0.43, 0.6])
def test_a_plan_is_found_again_by_its_own_cosine_or_a_smaller_one_is(share: float) -> None:
    made = menu(3)
    offers = [group.offers for group in made.groups]
    least = made.smallest_bytes - made.other_bytes
    plan = optimal_formats(offers, int(least * (1 + share)))
    assert plan is not None
    found = smallest_for_cosine(made, mean_cosine(made.options_of(plan.selection)))
    assert made.size_of(found.selection) <= made.size_of(plan.selection)


def test_a_target_that_the_cheapest_formats_reach_takes_these() -> None:
    made = menu(1)
    assert made.size_of(smallest_for_cosine(made, 0.01).selection) == made.smallest_bytes


def test_a_target_out_of_reach_names_what_is_within_it() -> None:
    made = menu(2)
    without = [[each for each in group.offers if each.loss > 0] for group in made.groups]
    groups = [
        type(group)(group.members, tuple(offers), group.roundings) for group, offers in zip(made.groups, without, strict=True)
    ]
    lossy = Menu(made.curves, made.config, made.allowed, groups)
    with pytest.raises(InfeasibleBudgetError, match=r"cosine: 1 is out of reach, .* come to 0\.9999"):
        smallest_for_cosine(lossy, 1.0)
    assert mean_cosine(made.options_of(smallest_for_cosine(made, 1.0).selection)) == 1.0
