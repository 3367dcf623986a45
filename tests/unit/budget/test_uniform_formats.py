"""Uniform plans are what their definition says, read aloud."""

from __future__ import annotations

import pytest

from layerlens.artifacts.compression import Rounding
from layerlens.artifacts.formats import Format, integer, size_bytes
from layerlens.budget.format_menu import Menu, menu_of
from layerlens.budget.uniform import evenly_spaced
from layerlens.budget.uniform_formats import LeftOut, uniform_plan
from layerlens.config import CompressConfig
from tests.unit.budget.small_curves import small

CURVES = small(1)


def menu(**policies: object) -> Menu:
    return menu_of(CURVES, CompressConfig(bits_per_weight=4, **policies))  # type: ignore[arg-type]


def size_at(widths: list[int]) -> int:
    """Bytes of the folder with a width for each matrix; 0 keeps it."""
    total = CURVES.model.other_bytes
    for matrix, width in zip(CURVES.matrices, widths, strict=True):
        shape = (matrix.out_features, matrix.in_features)
        total += shape[0] * shape[1] * 4 if width == 0 else size_bytes(integer(width), *shape, 4)
    return total


@pytest.mark.parametrize("spare", [0, 1, 5_000, 20_000])
@pytest.mark.parametrize("width", [2, 3, 5, 7])
def test_it_is_the_largest_width_that_fits_and_one_more_on_evenly_spaced_layers(width: int, spare: int) -> None:
    number = len(CURVES.matrices)
    limit = size_at([width] * number) + spare
    plain = uniform_plan(menu(), limit, Rounding.SECOND_ORDER)
    assert not isinstance(plain, LeftOut)
    assert {offer.scheme for offer in plain} == {integer(width)}
    topped = uniform_plan(menu(), limit, Rounding.SECOND_ORDER, is_topped_up=True)
    expected = None
    for more in range(1, number):
        raised = set(evenly_spaced(number, more).tolist())
        widths = [width + 1 if place in raised else width for place in range(number)]
        expected = widths if size_at(widths) <= limit else expected
    if expected is None:
        assert isinstance(topped, LeftOut)
    else:
        assert not isinstance(topped, LeftOut)
        assert [offer.scheme.bits for offer in topped] == expected


def test_the_rounding_asked_for_is_taken_wherever_there_is_one() -> None:
    for rounding in (Rounding.NEAREST, Rounding.SECOND_ORDER):
        found = uniform_plan(menu(), 10**9, rounding)
        assert not isinstance(found, LeftOut)
        assert [offer.options[0].rounding for offer in found] == [Rounding.NEAREST] + [rounding] * (len(found) - 1)


def test_what_policies_keep_stays_and_the_rest_shares_what_is_left() -> None:
    kept = [0 if ".mlp." in matrix.layer else 3 for matrix in CURVES.matrices]
    found = uniform_plan(menu(keep=["*.mlp.*"], widths=[8, 3]), size_at(kept), Rounding.NEAREST)
    assert not isinstance(found, LeftOut)
    assert [offer.scheme.bits for offer in found] == kept
    assert {offer.scheme.format for offer, width in zip(found, kept, strict=True) if width == 0} == {Format.KEEP}


def test_a_width_that_a_layer_lacks_is_made_good_by_the_next_larger_one() -> None:
    first = CURVES.matrices[0]
    coarse = first.model_copy(update={"options": [each for each in first.options if each.scheme.bits in (0, 4, 8)]})
    changed = CURVES.model_copy(update={"matrices": [coarse, *CURVES.matrices[1:]]})
    limit = size_at([4] + [3] * (len(CURVES.matrices) - 1))
    found = uniform_plan(menu_of(changed, CompressConfig(bits_per_weight=4)), limit, Rounding.NEAREST)
    assert not isinstance(found, LeftOut)
    assert [offer.scheme.bits for offer in found] == [4] + [3] * (len(CURVES.matrices) - 1)


def test_a_uniform_plan_that_cannot_be_says_why() -> None:
    smallest = size_at([2] * len(CURVES.matrices))
    below = uniform_plan(menu(), smallest - 1, Rounding.NEAREST)
    assert below == LeftOut(f"2 bits everywhere take {smallest:,} bytes, 1 more than there are")
    most = uniform_plan(menu(), 10**9, Rounding.NEAREST, is_topped_up=True)
    assert isinstance(most, LeftOut)
    assert "8 bits everywhere fit already" in most.reason
    without = uniform_plan(menu(formats=["low-rank"]), 10**9, Rounding.NEAREST)
    assert isinstance(without, LeftOut)
