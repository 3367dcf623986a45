"""Ranks that fit the matrix and pay, and fixed ranks that are always there."""

from __future__ import annotations

import pytest

from layerlens.artifacts.formats import integer, low_rank, size_bytes
from layerlens.compressing.option_grid import OptionGrid

SHAPES = [(256, 256), (128, 256), (768, 256), (256, 768), (2048, 2048), (4096, 11008), (64, 172), (10, 40), (6144, 256)]


@pytest.mark.parametrize("shape", SHAPES)
def test_ranks_are_steps_of_16_up_to_the_bytes_of_int8(shape: tuple[int, int]) -> None:
    grid = OptionGrid()
    ranks = grid.ranks(*shape)
    assert ranks == sorted(set(ranks))
    assert len(ranks) <= 12
    limit = size_bytes(integer(8), *shape, 1)
    assert all(rank % 16 == 0 and rank <= min(shape) for rank in ranks)
    assert all(size_bytes(low_rank(rank, 8), *shape, 1) <= limit for rank in ranks)
    most = max((r for r in range(16, min(shape) + 1, 16) if size_bytes(low_rank(r, 8), *shape, 1) <= limit), default=None)
    assert ranks[-1:] == ([] if most is None else [most])
    for bits in (16, 8, 4):
        schemes = grid.factor_schemes(ranks, bits, *shape)
        assert all(size_bytes(scheme, *shape, 1) <= limit for scheme in schemes)


def test_corrections_stay_small() -> None:
    grid = OptionGrid()
    assert [scheme.rank for scheme in grid.corrections(3, 2048, 2048)] == [16, 32, 64, 128]
    assert [scheme.rank for scheme in grid.corrections(3, 128, 256)] == [16, 32]
    assert grid.corrections(3, 32, 256) == []


def test_a_rank_that_was_asked_for_is_there_whatever_it_costs() -> None:
    grid = OptionGrid(extra_ranks=(250, 100))
    ranks = grid.ranks(256, 256)
    assert {112, 256} <= set(ranks)
    assert {scheme.rank for scheme in grid.factor_schemes(ranks, 16, 256, 256)} >= {112, 256}
    # Above the matrix there is nothing.
    assert 256 not in grid.ranks(128, 256)


def test_factors_of_a_long_table_take_at_most_the_bytes_of_4_bit_codes() -> None:
    grid = OptionGrid()
    sizes = [size_bytes(low_rank(rank, 8, 64), 20_000, 512, 2) for rank in grid.ranks(20_000, 512)]
    assert 0.9 * size_bytes(integer(4, 64), 20_000, 512, 2) < max(sizes) <= size_bytes(integer(4, 64), 20_000, 512, 2)
    assert max(grid.ranks(16_000, 512)) > max(grid.ranks(20_000, 512))


@pytest.mark.parametrize("shape", SHAPES)
def test_ranks_that_are_iterated_are_those_up_to_a_quarter_of_a_large_matrix(shape: tuple[int, int]) -> None:
    every, iterated = OptionGrid().ranks(*shape), OptionGrid(is_iterated=True).ranks(*shape)
    if min(shape) < 512:
        assert iterated == every
        return
    assert 0.23 * min(shape) < max(iterated) <= 0.25 * min(shape) < max(every)


def test_a_rank_that_was_asked_for_is_there_even_where_it_has_to_be_decomposed() -> None:
    assert 1024 in OptionGrid(is_iterated=True, extra_ranks=(1024,)).ranks(2048, 2048)
