"""Groups hold what a runtime fuses, and offer what all members have."""

from __future__ import annotations

import pytest

from layerlens.artifacts.compression import Rounding
from layerlens.artifacts.formats import Format, integer, low_rank
from layerlens.budget.format_menu import menu_of
from layerlens.config import CompressConfig
from layerlens.errors import ConfigError
from tests.unit.budget.small_curves import small

CURVES = small()


def layers_of(group_by: str) -> list[list[str]]:
    menu = menu_of(CURVES, CompressConfig(bits_per_weight=4, group_by=group_by))  # type: ignore[arg-type]
    return [[matrix.layer.removeprefix("model.layers.") for matrix in menu.matrices_of(group)] for group in menu.groups]


def test_matrices_stand_alone_are_fused_or_share_a_block() -> None:
    assert layers_of("none") == [[matrix.layer.removeprefix("model.layers.")] for matrix in CURVES.matrices]
    fused = layers_of("fused")
    assert fused[:5] == [
        ["model.embed_tokens"],
        ["0.self_attn.q_proj", "0.self_attn.k_proj", "0.self_attn.v_proj"],
        ["0.self_attn.o_proj"],
        ["0.mlp.gate_proj", "0.mlp.up_proj"],
        ["0.mlp.down_proj"],
    ]
    assert [len(members) for members in layers_of("block")] == [1, 7, 7, 7]


def test_matrices_that_read_different_inputs_are_not_fused() -> None:
    changed = [
        matrix.model_copy(update={"input_group": matrix.layer}) if matrix.layer.endswith("v_proj") else matrix
        for matrix in CURVES.matrices
    ]
    menu = menu_of(CURVES.model_copy(update={"matrices": changed}), CompressConfig(bits_per_weight=4, group_by="fused"))
    assert sorted(len(group.members) for group in menu.groups) == [1] * 10 + [2] * 6


def test_a_groups_offers_are_the_schemes_that_all_members_have_with_sums_of_bytes_and_losses() -> None:
    menu = menu_of(CURVES, CompressConfig(bits_per_weight=4, group_by="fused"))
    group = menu.groups[1]
    members = menu.matrices_of(group)
    common = set.intersection(*({option.scheme for option in matrix.options} for matrix in members))
    assert {offer.scheme for offer in group.offers} == common
    assert low_rank(64, 8) not in common
    for offer in group.offers:
        ways = [[option for option in matrix.options if option.scheme == offer.scheme] for matrix in members]
        assert offer.size_bytes == sum(options[0].size_bytes for options in ways)
        assert offer.loss == pytest.approx(sum(min(option.predicted_loss for option in options) for options in ways))


def test_a_rounding_can_be_asked_for_and_the_best_one_stands_in() -> None:
    menu = menu_of(CURVES, CompressConfig(bits_per_weight=4))
    embedding, query = menu.groups[0], menu.groups[1]
    assert query.rounded(integer(4), Rounding.NEAREST).options[0].rounding is Rounding.NEAREST
    assert query.rounded(integer(4), Rounding.SECOND_ORDER).options[0].rounding is Rounding.SECOND_ORDER
    assert embedding.rounded(integer(4), Rounding.SECOND_ORDER).options[0].rounding is Rounding.NEAREST
    assert not embedding.is_rounded(integer(4), Rounding.SECOND_ORDER)


def test_keeping_one_member_keeps_what_is_fused_with_it() -> None:
    menu = menu_of(CURVES, CompressConfig(bits_per_weight=6, group_by="fused", keep=["attention.key"]))
    assert {offer.scheme.format for offer in menu.groups[1].offers} == {Format.KEEP}


def test_policies_that_set_a_group_apart_are_refused() -> None:
    without = [
        matrix.model_copy(update={"options": [each for each in matrix.options if each.scheme.format is not Format.KEEP]})
        if matrix.layer.endswith("k_proj")
        else matrix
        for matrix in CURVES.matrices
    ]
    curves = CURVES.model_copy(update={"matrices": without})
    with pytest.raises(ConfigError, match=r"group_by fused: .*q_proj.* have no format in common"):
        menu_of(curves, CompressConfig(bits_per_weight=6, group_by="fused", keep=["attention.query"]))
