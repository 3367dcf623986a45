"""What races: each candidate is the optimum of its own reading, each fits, and no choice races twice."""

from __future__ import annotations

import math

import pytest

from layerlens.artifacts.compression import MatrixCurve, Option
from layerlens.artifacts.formats import Format
from layerlens.budget.compression_candidates import Runner, baselines, choice_of, other_readings
from layerlens.budget.format_menu import Menu, menu_of
from layerlens.budget.format_optimum import FormatOptimum, optimal_formats
from layerlens.config import CompressConfig
from layerlens.words import Role
from tests.unit.budget.small_curves import best_of_all, small, tiny


def readings(menu: Menu, limit: int) -> tuple[FormatOptimum, dict[str, Runner], dict[str, str]]:
    best = optimal_formats([group.offers for group in menu.groups], limit - menu.other_bytes)
    assert best is not None
    found, left_out = other_readings(menu, best, limit)
    return best, {runner.name: runner for runner in found}, left_out


def reweighed(matrix: MatrixCurve, name: str) -> list[Option]:
    """The options of a matrix as a candidate reads them."""
    if name == "optimum-integers":
        return [each for each in matrix.options if each.scheme.format in (Format.KEEP, Format.HALF, Format.INTEGER)]
    losses = {
        "optimum-unanchored": lambda each: each.predicted_loss / matrix.anchor,
        "optimum-tempered": lambda each: math.sqrt(each.predicted_loss),
    }[name]
    return [each.model_copy(update={"predicted_loss": losses(each)}) for each in matrix.options]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["optimum-unanchored", "optimum-integers", "optimum-tempered"])
def test_a_candidate_is_the_optimum_of_its_own_reading(name: str, seed: int) -> None:
    curves = tiny(seed)
    menu = menu_of(curves, CompressConfig(bits_per_weight=4))
    largest = sum(max(option.size_bytes for option in matrix.options) for matrix in curves.matrices)
    limit = menu.other_bytes + (menu.smallest_bytes - menu.other_bytes + largest) // 2
    best, found, left_out = readings(menu, limit)
    choices = [reweighed(matrix, name) for matrix in curves.matrices]
    expected = best_of_all(choices, limit - menu.other_bytes)
    if expected == math.inf:
        assert left_out[name] == "integers alone do not fit"
        return
    chosen = found[name].selection if name in found else best.selection
    if name not in found and left_out[name] != "the same choice as optimum":
        chosen = found[left_out[name].removeprefix("the same choice as ")].selection
    total = 0.0
    for options, offer in zip(choices, chosen, strict=True):
        total += next(
            each.predicted_loss for each in options if (each.scheme, each.rounding) == (offer.scheme, offer.options[0].rounding)
        )
    assert total == pytest.approx(expected, rel=3e-6)


def test_safe_ends_give_embedding_and_head_a_step_more_and_stay_within_the_bytes() -> None:
    curves = small(5, is_tied=False)
    menu = menu_of(curves, CompressConfig(bits_per_weight=4))
    limit = int(4 * curves.model.num_parameters / 8)
    best, found, _ = readings(menu, limit)
    safe = found["optimum-safe-ends"].selection
    for matrix, before, after in zip(curves.matrices, best.selection, safe, strict=True):
        if matrix.role in (Role.EMBEDDING, Role.HEAD):
            assert after.loss < before.loss
    assert menu.size_of(safe) <= limit


@pytest.mark.parametrize("group_by", ["none", "fused", "block"])
@pytest.mark.parametrize("bits", [2.5, 4.25, 8.0])
def test_everything_that_races_fits_and_makes_a_choice_of_its_own(bits: float, group_by: str) -> None:
    curves = small(6)
    menu = menu_of(curves, CompressConfig(bits_per_weight=bits, group_by=group_by))  # type: ignore[arg-type]
    limit = int(bits * curves.model.num_parameters / 8)
    best, found, left_out = readings(menu, limit)
    ours = [best.selection, *(runner.selection for runner in found.values())]
    rivals, absent = baselines(menu, limit)
    for runners in (ours, [rival.selection for rival in rivals]):
        assert all(menu.size_of(selection) <= limit for selection in runners)
        choices = [choice_of(selection) for selection in runners]
        assert all(one not in choices[:place] for place, one in enumerate(choices))
    assert len(found) + len(left_out) == 5
    short = {
        f"{rival.name} at all bytes"
        for rival in rivals
        if rival.name.endswith(("-int8", "-topped-up")) and menu.size_of(rival.selection) < 0.99 * limit
    }
    assert short == {name for name in absent if name.endswith(" at all bytes")}
    assert len(rivals) + len(absent) - len(short) == 6
    assert all(best.loss <= menu.loss_of(rival.selection) * (1 + 2e-6) for rival in rivals)
    for selection in (*ours, *(rival.selection for rival in rivals)):
        for group, offer in zip(menu.groups, selection, strict=True):
            assert {option.scheme for option in offer.options} == {offer.scheme}
            assert offer.scheme in group.roundings
