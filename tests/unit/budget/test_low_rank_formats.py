"""The baseline of one ratio, and the fixed-rank form with its policies."""

from __future__ import annotations

from typing import Any

import pytest

from layerlens.artifacts.compression import Rounding
from layerlens.artifacts.formats import KEEP, Format, integer, low_rank, size_bytes
from layerlens.budget.format_menu import Menu, Selection, menu_of
from layerlens.budget.low_rank_formats import fixed_rank_plan, low_rank_plan
from layerlens.budget.uniform_formats import LeftOut
from layerlens.config import CompressConfig
from layerlens.errors import ConfigError
from layerlens.words import Role
from tests.unit.budget.small_curves import small

CURVES = small(2, rank_shares=tuple(step / 8 for step in range(1, 8)))


def menu(**given: Any) -> Menu:
    target = {} if {"rank"} & set(given) else {"bits_per_weight": 4}
    return menu_of(CURVES, CompressConfig(**target, **given))


def baseline(limit: int, rounding: Rounding = Rounding.WHITENED) -> Selection | LeftOut:
    return low_rank_plan(menu(), limit, rounding)


def ratio(place: int, rank: int) -> float:
    matrix = CURVES.matrices[place]
    return rank * (matrix.out_features + matrix.in_features) / (matrix.out_features * matrix.in_features)


@pytest.mark.parametrize("rounding", [Rounding.PLAIN, Rounding.WHITENED])
@pytest.mark.parametrize("bits", [3.5, 4.5, 5.5, 6.5])
def test_ranks_share_one_ratio_up_to_one_step_of_the_curves_and_fill_the_bytes(bits: float, rounding: Rounding) -> None:
    limit = int(bits * CURVES.model.num_parameters / 8)
    found = baseline(limit, rounding)
    assert not isinstance(found, LeftOut)
    assert 0.93 * limit <= menu().size_of(found) <= limit
    lower, upper = [], []
    for place, (offer, matrix) in enumerate(zip(found, CURVES.matrices, strict=True)):
        codes = size_bytes(integer(8), matrix.out_features, matrix.in_features, 4)
        if offer.scheme.format is Format.INTEGER:
            assert offer.scheme == integer(8)
            continue
        assert offer.scheme == low_rank(offer.scheme.rank, 8)
        assert offer.options[0].rounding is rounding
        assert offer.size_bytes < codes
        steps = sorted({each.scheme.rank for each in matrix.options if each.scheme.format is Format.LOW_RANK})
        lower.append(ratio(place, offer.scheme.rank))
        upper.append(ratio(place, next((rank for rank in steps if rank > offer.scheme.rank), 10**6)))
    # Every rank is the largest within the common ratio, or one step above it where the rest of the bytes allowed.
    assert max(lower) <= min(upper) + 0.25


def at_ratio(share: float) -> list[str]:
    """The definition, read aloud: the largest rank within the ratio, else the smallest; codes where factors are no smaller."""
    names = []
    for place, matrix in enumerate(CURVES.matrices):
        steps = sorted({each.scheme.rank for each in matrix.options if each.scheme.format is Format.LOW_RANK})
        shape = (matrix.out_features, matrix.in_features, 4)
        rank = max((rank for rank in steps if ratio(place, rank) <= share), default=min(steps, default=0))
        is_smaller = rank > 0 and size_bytes(low_rank(rank, 8), *shape) < size_bytes(integer(8), *shape)
        names.append(f"lr{rank}x8" if is_smaller else "int8")
    return names


@pytest.mark.parametrize("place", [1, 2, 5])
@pytest.mark.parametrize("rank", [16, 32, 48])
def test_at_exactly_the_bytes_of_a_ratio_it_is_this_ratio(place: int, rank: int) -> None:
    expected = at_ratio(ratio(place, rank))
    limit = CURVES.model.other_bytes
    for name, matrix in zip(expected, CURVES.matrices, strict=True):
        limit += next(each.size_bytes for each in matrix.options if each.scheme.name == name)
    found = baseline(limit)
    assert not isinstance(found, LeftOut)
    assert [offer.scheme.name for offer in found] == expected


def test_embeddings_are_eight_bit_codes() -> None:
    found = baseline(int(5 * CURVES.model.num_parameters / 8))
    assert not isinstance(found, LeftOut)
    assert found[0].scheme == integer(8)
    assert CURVES.matrices[0].role is Role.EMBEDDING


def test_with_bytes_for_everything_what_is_no_smaller_than_eight_bit_codes_is_codes() -> None:
    found = baseline(10**9)
    assert not isinstance(found, LeftOut)
    for offer, matrix in zip(found, CURVES.matrices, strict=True):
        largest = max((each.scheme.rank for each in matrix.options if each.scheme.format is Format.LOW_RANK), default=0)
        codes = size_bytes(integer(8), matrix.out_features, matrix.in_features, 4)
        factors = size_bytes(low_rank(largest, 8), matrix.out_features, matrix.in_features, 4) if largest else codes
        assert offer.scheme == (low_rank(largest, 8) if factors < codes else integer(8))


def test_a_low_rank_baseline_that_cannot_be_says_why() -> None:
    below = baseline(1000)
    assert isinstance(below, LeftOut)
    assert "the smallest ranks everywhere take" in below.reason
    without = low_rank_plan(menu(formats=["integer"]), 10**9, Rounding.PLAIN)
    assert without == LeftOut("no plain-svd factors of 8 bits are on offer")


def schemes(**given: Any) -> dict[str, str]:
    made = menu(**given)
    names = {}
    for group, offer in zip(made.groups, fixed_rank_plan(made), strict=True):
        names |= {matrix.layer: offer.scheme.name for matrix in made.matrices_of(group)}
    return names


def test_fixed_rank_factorises_what_is_large_and_keeps_the_rest() -> None:
    found = schemes(rank=32, quant_bits=4, min_dim=128)
    for matrix in CURVES.matrices:
        is_long = min(matrix.out_features, matrix.in_features) >= 128
        expected = "lr32x4" if is_long and matrix.role is not Role.EMBEDDING else KEEP.name
        assert found[matrix.layer] == expected
    assert "lr32x4" in found.values()
    assert found["model.layers.0.self_attn.k_proj"] == KEEP.name


def test_a_word_table_gets_the_fixed_rank_only_by_a_policy_of_its_role() -> None:
    table = next(matrix for matrix in CURVES.matrices if matrix.role is Role.EMBEDDING)
    layer = next(matrix for matrix in CURVES.matrices if matrix.role is Role.MLP_DOWN)
    # A table with factors among its options, as measured ones have.
    alike = layer.model_copy(update={"layer": table.layer, "role": Role.EMBEDDING, "block": None, "input_group": table.layer})
    curves = CURVES.model_copy(update={"matrices": [alike, *(one for one in CURVES.matrices if one is not table)]})

    def of_table(**given: Any) -> str:
        return fixed_rank_plan(menu_of(curves, CompressConfig(rank=32, min_dim=128, **given)))[0].scheme.name

    assert of_table() == KEEP.name
    assert of_table(role_ranks={"embedding": 16}) == "lr16x8"


def test_fixed_rank_takes_whitened_factors_and_obeys_policies() -> None:
    made = menu(rank=32, min_dim=64, first_block_rank=64, role_ranks={"attention.*": 16}, keep=["*.mlp.down*"])
    selection = fixed_rank_plan(made)
    for matrix, offer in zip(CURVES.matrices, selection, strict=True):
        if matrix.role in (Role.EMBEDDING, Role.MLP_DOWN):
            assert offer.scheme == KEEP
            continue
        wanted = 64 if matrix.block == 0 else 16 if matrix.role.is_attention else 32
        if min(matrix.out_features, matrix.in_features) < 128 and wanted == 64:
            # 64 x (64 + 128) numbers of a byte against 64 x 128 of four: smaller still.
            assert offer.size_bytes < matrix.out_features * matrix.in_features * 4
        assert offer.scheme == low_rank(wanted, 8)
        assert offer.options[0].rounding is Rounding.WHITENED


def test_factors_that_would_be_larger_than_the_matrix_are_not_made() -> None:
    narrow = menu_of(small(2, kept_element_bytes=1), CompressConfig(rank=32, min_dim=128, quant_bits=16))
    for matrix, offer in zip(narrow.curves.matrices, fixed_rank_plan(narrow), strict=True):
        is_smaller = 2 * 32 * (matrix.out_features + matrix.in_features) < matrix.out_features * matrix.in_features
        assert offer.scheme.name == ("lr32x16" if is_smaller and matrix.role is not Role.EMBEDDING else KEEP.name)


def test_a_rank_that_makes_no_matrix_smaller_is_refused_and_the_largest_that_does_is_named() -> None:
    narrow = small(2, kept_element_bytes=1)

    def made(**given: Any) -> list[str]:
        return [offer.scheme.name for offer in fixed_rank_plan(menu_of(narrow, CompressConfig(**given)))]

    with pytest.raises(ConfigError, match=r"rank: factors of rank 64 x 16 bits make no matrix smaller.* rank 32 or less would"):
        made(rank=64, min_dim=128, quant_bits=16)
    assert "lr32x16" in made(rank=32, min_dim=128, quant_bits=16)
    with pytest.raises(ConfigError, match=r"no matrix smaller.* and no other rank would; keep less"):
        made(rank=32, min_dim=128, keep=["attention.*", "mlp.*"])


def test_a_rank_above_a_matrix_names_it_and_small_matrices_do_not_count() -> None:
    with pytest.raises(ConfigError, match=r"rank: 80 is above the smaller side of model.layers.0.self_attn.k_proj \(64 x 128\)"):
        schemes(rank=80, min_dim=64)
    assert "lr80x8" in schemes(rank=80, min_dim=128).values()
    with pytest.raises(ConfigError, match=r"rank: 144 is above .* and 12 more"):
        schemes(rank=129, min_dim=128)


def test_members_of_a_group_that_are_asked_different_ranks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"q_proj.* rank 16 x 8 bits, rank 32 x 8 bits|no format in common"):
        schemes(rank=32, min_dim=64, group_by="fused", role_ranks={"attention.query": 16})
