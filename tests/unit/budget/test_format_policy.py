"""Policies leave each matrix what a person allows, and name everything that does not suit the model."""

from __future__ import annotations

from typing import Any

import pytest

from layerlens.artifacts.compression import Curves, MatrixCurve
from layerlens.artifacts.formats import Format
from layerlens.budget.format_policy import Allowed, allowed_options
from layerlens.config import CompressConfig
from layerlens.errors import ConfigError, ManifestError
from layerlens.words import Role
from tests.unit.budget.small_curves import small

CURVES = small()


def allowed(curves: Curves = CURVES, **policies: Any) -> list[tuple[MatrixCurve, Allowed]]:
    found = allowed_options(curves, CompressConfig(bits_per_weight=4, **policies))
    return list(zip(curves.matrices, found, strict=True))


def kept(**policies: Any) -> set[str]:
    return {matrix.layer for matrix, left in allowed(**policies) if left.kept_by}


def test_without_policies_every_option_is_left() -> None:
    assert all(len(left.options) == len(matrix.options) and left.kept_by is None for matrix, left in allowed())


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.mlp.*", {matrix.layer for matrix in CURVES.matrices if ".mlp." in matrix.layer}),
        ("mlp.*", {matrix.layer for matrix in CURVES.matrices if ".mlp." in matrix.layer}),
        ("attention.query", {f"model.layers.{block}.self_attn.q_proj" for block in range(3)}),
        ("model.layers.0.self_attn.o_proj", {"model.layers.0.self_attn.o_proj"}),
        ("embedding", {"model.embed_tokens"}),
        ("head", {"model.embed_tokens"}),
        ("lm_head", {"model.embed_tokens"}),
    ],
)
def test_patterns_name_paths_roles_and_tied_modules(pattern: str, expected: set[str]) -> None:
    assert kept(keep=[pattern]) == expected
    for _, left in allowed(keep=[pattern]):
        assert left.kept_by is None or {option.scheme.format for option in left.options} == {Format.KEEP}


def test_an_untied_embedding_is_not_the_head() -> None:
    untied = small(is_tied=False)
    found = allowed(untied, keep=["head"])
    assert {matrix.layer for matrix, left in found if left.kept_by} == {"lm_head"}


def test_families_widths_and_the_floor_are_kept_to() -> None:
    for matrix, left in allowed(formats="integer,low-rank", widths="8,3", rank_floor=32):
        schemes = {option.scheme for option in left.options}
        expected = {
            option.scheme
            for option in matrix.options
            if option.scheme.format is Format.KEEP
            or (option.scheme.format is Format.INTEGER and option.scheme.bits in (8, 3))
            or (option.scheme.format is Format.LOW_RANK and option.scheme.rank >= 32)
        }
        assert schemes == expected


def test_rank_policies_fix_the_rank_of_the_low_rank_format_alone() -> None:
    for matrix, left in allowed(first_block_rank=16, last_block_rank=32, role_ranks={"mlp.*": 64, "attention.output": 16}):
        ranks = {option.scheme.rank for option in left.options if option.scheme.format is Format.LOW_RANK}
        middle = {Role.MLP_UP: 64, Role.MLP_GATE: 64, Role.MLP_DOWN: 64, Role.ATTENTION_OUTPUT: 16}.get(matrix.role)
        wanted = {0: 16, 2: 32, 1: middle, None: None}[matrix.block]
        assert left.rank == wanted
        measured = {option.scheme.rank for option in matrix.options if option.scheme.format is Format.LOW_RANK}
        assert ranks == ({wanted} if wanted else measured)
        corrections = [option for option in matrix.options if option.scheme.format is Format.INTEGER_LOW_RANK]
        assert all(option in left.options for option in corrections)


def test_everything_that_does_not_suit_the_model_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        allowed(keep=["*.gates", "nothing.*", "*.mlp.*"], role_ranks={"pooler": 16}, group_size=128)
    told = str(caught.value)
    assert "keep: *.gates, nothing.* match no layer" in told
    assert "role_ranks: the model has no pooler" in told
    assert "group_size: the curves were measured with 64, not 128" in told


def test_a_rank_above_the_matrix_and_one_not_measured_are_told_apart() -> None:
    with pytest.raises(ConfigError, match=r"first_block_rank: 256 is above the smaller side of .*q_proj \(128 x 128\)"):
        allowed(first_block_rank=256)
    with pytest.raises(ConfigError, match=r"role_ranks: 48 was not measured for .*down_proj \(has 16, 32, 64\)"):
        allowed(role_ranks={"mlp.down": 48})
    with pytest.raises(ConfigError, match=r"rank: 144 is above .*\(128 x 128\).* \(a rank is rounded up to a multiple of 16\)$"):
        allowed(first_block_rank=129)


def test_a_rank_without_the_low_rank_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="low-rank is not among integer"):
        allowed(formats="integer", last_block_rank=32)


def test_a_role_behind_one_that_names_all_its_layers_is_refused_and_before_it_wins() -> None:
    with pytest.raises(ConfigError, match=r"role_ranks: attention\.query stands behind roles that name all its layers"):
        allowed(role_ranks={"attention.*": 16, "attention.query": 32})
    ranks = {matrix.role: left.rank for matrix, left in allowed(role_ranks={"attention.query": 32, "attention.*": 16})}
    assert (ranks[Role.ATTENTION_QUERY], ranks[Role.ATTENTION_KEY], ranks[Role.MLP_UP]) == (32, 16, None)


def test_a_rank_policy_says_nothing_about_layers_that_are_kept() -> None:
    assert len(kept(keep=["model.layers.0.*"], first_block_rank=256)) == 7


def test_curves_that_cannot_keep_what_must_be_kept_are_damaged() -> None:
    first = CURVES.matrices[0]
    without = first.model_copy(update={"options": [each for each in first.options if each.scheme.format is not Format.KEEP]})
    damaged = CURVES.model_copy(update={"matrices": [without, *CURVES.matrices[1:]]})
    with pytest.raises(ManifestError, match=r"model\.embed_tokens"):
        allowed(damaged, keep=["embedding"])
