"""Probes: which option and which matrices are measured, and what their anchors do to every other option."""

from __future__ import annotations

import math

import pytest

from layerlens.artifacts.compression import Rounding
from layerlens.artifacts.formats import KEEP, integer, low_rank
from layerlens.compressing.anchors import FEW_PER_ROLE, LARGEST_ANCHOR, anchored, few_per_role, probed_option
from layerlens.words import Role
from tests.unit.compressing.small_curves import curves, matrix, option, probe


def test_three_bits_of_second_order_are_probed_or_the_nearest_width_or_else_factors() -> None:
    nearest = option(integer(3), Rounding.NEAREST, 0.5)
    second = [option(integer(bits), Rounding.SECOND_ORDER, 0.1) for bits in (8, 4, 3, 2)]
    factors = option(low_rank(16, 8), Rounding.WHITENED, 0.2)
    kept = option(KEEP, Rounding.NONE, 0.0)
    assert probed_option(matrix(0, options=[kept, nearest, *second, factors])) is second[2]
    assert probed_option(matrix(0, options=[kept, nearest, second[0], second[1]])) is second[1]
    assert probed_option(matrix(0, options=[kept, second[1], second[3]])) is second[3]
    assert probed_option(matrix(0, options=[kept, factors])) is factors
    assert probed_option(matrix(0, options=[kept, option(integer(8), Rounding.NEAREST, 0.0)])) is None


def test_few_are_the_ends_and_some_between_of_each_role_and_all_outside_the_blocks() -> None:
    inside = [matrix(block, role) for block in range(12) for role in (Role.MLP_UP, Role.MLP_DOWN)]
    outside = [matrix(None, Role.EMBEDDING), matrix(None, Role.HEAD)]
    chosen = few_per_role([outside[0], *inside, outside[1]])
    assert [one for one in chosen if one.block is None] == outside
    for role in (Role.MLP_UP, Role.MLP_DOWN):
        blocks = [one.block for one in chosen if one.role is role]
        assert len(blocks) == FEW_PER_ROLE
        assert (blocks[0], blocks[-1]) == (0, 11)
        assert blocks == sorted(set(blocks), key=lambda block: -1 if block is None else block)
    assert few_per_role(inside[:4]) == inside[:4]


def test_an_anchor_multiplies_every_option_of_its_matrix() -> None:
    before = curves([matrix(0), matrix(1)])
    found = anchored(before, {before.matrices[0].layer: probe(0.1, 0.3), before.matrices[1].layer: probe(0.1, 0.05)})
    for one, old, factor in zip(found.matrices, before.matrices, (3.0, 0.5), strict=True):
        assert one.anchor == pytest.approx(factor)
        assert [each.predicted_loss for each in one.options] == pytest.approx(
            [factor * each.predicted_loss for each in old.options]
        )
        assert [each.scheme for each in one.options] == [each.scheme for each in old.options]
    assert found.matrices[0].probe == probe(0.1, 0.3)
    assert before.matrices[0].probe is None


def test_between_probes_of_a_role_anchors_run_straight_in_logarithms_over_depth() -> None:
    ups, downs = [matrix(block) for block in range(5)], [matrix(block, Role.MLP_DOWN) for block in range(5)]
    probes = {ups[0].layer: probe(1.0, 1.0), ups[4].layer: probe(1.0, 4.0), downs[2].layer: probe(1.0, 2.0)}
    found = anchored(curves([*ups, *downs]), probes)
    assert [one.anchor for one in found.matrices[:5]] == pytest.approx([4 ** (block / 4) for block in range(5)])
    assert [one.anchor for one in found.matrices[5:]] == pytest.approx([2.0] * 5)
    assert [one.probe is not None for one in found.matrices[:5]] == [True, False, False, False, True]


def test_what_no_probe_of_its_role_tells_takes_the_typical_anchor() -> None:
    ups, head = [matrix(block) for block in range(3)], matrix(None, Role.HEAD)
    probes = {one.layer: probe(1.0, measured) for one, measured in zip(ups, (2.0, 3.0, 5.0), strict=True)}
    found = anchored(curves([*ups, matrix(1, Role.MLP_DOWN), head]), probes)
    assert [one.anchor for one in found.matrices[3:]] == pytest.approx([3.0, 3.0])
    assert [one.anchor for one in anchored(curves([matrix(0), head]), {}).matrices] == [1.0, 1.0]


def test_another_unit_is_taken_over_and_outliers_are_held() -> None:
    blocks = [matrix(block) for block in range(5)]
    measured = (1e3, 2e3, 4e3, 1e9, -1.0)
    probes = {one.layer: probe(1.0, value) for one, value in zip(blocks, measured, strict=True)}
    typical = math.sqrt(2e3 * 4e3)
    expected = [1e3, 2e3, 4e3, LARGEST_ANCHOR * typical, typical / LARGEST_ANCHOR]
    assert [one.anchor for one in anchored(curves(blocks), probes).matrices] == pytest.approx(expected)
