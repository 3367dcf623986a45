"""The options of compress check themselves: one target, known widths, roles and formats."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from layerlens.artifacts import formats
from layerlens.config import CompressConfig
from layerlens.config import compression as options


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "got none of them"),
        ({"size": 1, "cosine": 0.9}, "got --size and --cosine"),
        ({"size": 1, "bits_per_weight": 4, "rank": 64}, "got --size and --bits-per-weight and --rank"),
    ],
)
def test_exactly_one_target_is_needed(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CompressConfig(**given)
    (error,) = caught.value.errors()
    assert told in error["msg"]
    assert "--size, --bits-per-weight, --cosine or --rank" in error["msg"]


def test_the_command_lines_spellings_mean_the_same_as_pythons() -> None:
    typed = CompressConfig(size="1.5GB", keep="*.mlp.*,head", role_ranks="mlp.*=64", widths="4,8,4", formats="low-rank,integer")
    assert typed.size == 3 * 2**29
    assert typed.keep == ["*.mlp.*", "head"]
    assert typed.role_ranks == {"mlp.*": 64}
    assert typed.widths == [8, 4]
    assert typed.formats == ["integer", "low-rank"]


def test_ranks_are_rounded_up_to_multiples_of_16() -> None:
    config = CompressConfig(rank=100, first_block_rank="1", role_ranks={"mlp.up": 33})
    assert (config.rank, config.first_block_rank, config.role_ranks) == (112, 16, {"mlp.up": 48})
    assert config.ranks_asked == [16, 48, 112]


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("widths", "9,4", "got 9"),
        ("widths", "", "at least one"),
        ("quant_bits", 6, "16, 8, 4"),
        ("formats", "int4", "unknown int4"),
        ("formats", "keep", "at least one"),
        ("role_ranks", "attention.q=64", "unknown role attention.q"),
        ("role_ranks", "mlp.up=0", "greater than 0"),
        ("rank_floor", 0, "greater than 0"),
        ("group_size", 12, "multiple of 8"),
        ("bits_per_weight", 0, "greater than 0"),
        ("cosine", 1.5, "less than or equal to 1"),
    ],
)
def test_what_no_format_can_do_is_refused_by_the_options_name(field: str, value: Any, told: str) -> None:
    given = {"size": 1, field: value}
    with pytest.raises(ValidationError) as caught:
        CompressConfig(**given)
    faults = {str(error["loc"][0]): error["msg"] for error in caught.value.errors() if error["loc"]}
    assert told in faults[field]


def test_options_of_the_fixed_rank_form_need_its_rank() -> None:
    with pytest.raises(ValidationError, match="quant_bits: only the fixed-rank form takes quant_bits and min_dim"):
        CompressConfig(size=1, quant_bits=4, min_dim=64)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"rank": 64}, "rank 64"),
        ({"size": 1, "first_block_rank": 120, "last_block_rank": 16}, "last_block_rank 16"),
        ({"size": 1, "role_ranks": {"mlp.*": 128, "attention.query": 100}}, "role_ranks attention.query 112"),
        ({"rank": 128, "first_block_rank": 64, "role_ranks": {"mlp.up": 32}}, "first_block_rank 64, role_ranks mlp.up 32"),
    ],
)
def test_every_rank_below_the_floor_is_refused_by_who_asks_for_it(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=f"rank_floor: 128 is above {re.escape(told)};"):
        CompressConfig(rank_floor=128, **given)


def test_names_and_numbers_are_those_of_the_formats() -> None:
    assert ["keep", *options.FORMAT_FAMILIES] == [family.value for family in formats.Format]
    assert list(range(options.LARGEST_WIDTH, options.SMALLEST_WIDTH - 1, -1)) == list(formats.WIDTHS)
    assert options.FACTOR_WIDTHS == formats.FACTOR_BITS
    assert options.RANK_STEP == formats.RANK_STEP
