"""A reason gives the step below, the step above and what stopped it, in figures that can be checked."""

from __future__ import annotations

import re
from typing import Any

import pytest

from layerlens.artifacts.formats import integer
from layerlens.artifacts.profile import TaskInfo
from layerlens.budget.format_menu import Menu, menu_of
from layerlens.budget.format_optimum import optimal_formats, staircase
from layerlens.budget.format_reasons import BY_LOSS, BY_RANK, BY_RULE, reasons
from layerlens.config import CompressConfig
from layerlens.words import TaskKind
from tests.unit.budget.small_curves import small

CURVES = small(4)


def menu(**policies: object) -> Menu:
    return menu_of(CURVES, CompressConfig(bits_per_weight=4, **policies))  # type: ignore[arg-type]


def test_every_sentence_of_an_optimum_names_the_neighbours_and_the_bytes_left() -> None:
    made = menu()
    limit = int(4 * CURVES.model.num_parameters / 8)
    found = optimal_formats([group.offers for group in made.groups], limit - made.other_bytes)
    assert found is not None
    left = limit - made.size_of(found.selection)
    for group, offer, why in zip(made.groups, found.selection, reasons(made, found.selection, limit, BY_LOSS), strict=True):
        steps = staircase(group.offers)
        place = steps.index(offer)
        assert why.startswith(f"predicted to cost {offer.loss:.3g} nats")
        if place:
            below = steps[place - 1]
            gain, saved = below.loss - offer.loss, offer.size_bytes - below.size_bytes
            assert f"{gain:.3g} less than {below.scheme.name}, which is {saved:,} bytes smaller" in why
        else:
            assert "nothing smaller is on offer" in why
        above = steps[place + 1]
        extra = above.size_bytes - offer.size_bytes
        assert extra > left
        assert f"{above.scheme.name} would cost {offer.loss - above.loss:.3g} less for {extra:,} bytes more" in why
        assert why.endswith(f"only {left:,} left")


def test_what_kept_a_matrix_is_named() -> None:
    made = menu(keep=["*.mlp.*"])
    cheapest = tuple(group.offers[0] for group in made.groups)
    for matrix, why in zip(CURVES.matrices, reasons(made, cheapest, 10**9, BY_LOSS), strict=True):
        assert (why == "kept, as --keep *.mlp.* asks") == (".mlp." in matrix.layer)


def test_a_matrix_that_no_loss_depends_on_is_said_to_be_so() -> None:
    first, *others = CURVES.matrices
    options = [option.model_copy(update={"predicted_loss": 0.0}) for option in first.options]
    curves = CURVES.model_copy(update={"matrices": [first.model_copy(update={"options": options}), *others]})
    made = menu_of(curves, CompressConfig(bits_per_weight=4, keep=[others[0].layer]))
    said = reasons(made, tuple(group.offers[0] for group in made.groups), 10**9, BY_LOSS)
    assert said[0].startswith("no calibration sample's loss depends on it")
    assert not any("no calibration sample" in why for why in said[1:])


def test_plans_that_do_not_spend_by_loss_say_what_they_go_by() -> None:
    made = menu()
    plain = tuple(group.rounded(integer(4), group.offers[0].options[0].rounding) for group in made.groups)
    assert all("it would fit, but this plan spends by a rule" in why for why in reasons(made, plain, 10**9, BY_RULE))
    assert all(why.endswith("the rank was asked for") for why in reasons(made, plain, None, BY_RANK))
    finest = tuple(staircase(group.offers)[-1] for group in made.groups)
    assert all(why.endswith("nothing on offer costs less") for why in reasons(made, finest, 10**9, BY_LOSS))


def test_an_offer_that_fits_to_the_byte_is_said_to_fit() -> None:
    made = menu()
    plain = tuple(group.rounded(integer(4), group.offers[0].options[0].rounding) for group in made.groups)
    steps = staircase(made.groups[0].offers)
    above = next(step for step in steps if step.size_bytes > plain[0].size_bytes)
    limit = made.size_of(plain) + above.size_bytes - plain[0].size_bytes
    assert "it would fit" in reasons(made, plain, limit, BY_RULE)[0]
    assert reasons(made, plain, limit - 1, BY_RULE)[0].endswith(f"only {limit - 1 - made.size_of(plain):,} left")


def test_matrices_of_a_group_are_told_together() -> None:
    made = menu(group_by="fused", keep=["*.0.self_attn.q_proj"])
    found = reasons(made, tuple(group.offers[0] for group in made.groups), 10**9, BY_LOSS)
    by_layer = {matrix.layer: why for matrix, why in zip(CURVES.matrices, found, strict=True)}
    assert re.search(
        r"together with .*q_proj, .*v_proj, which --keep \*\.0\.self_attn\.q_proj names",
        by_layer["model.layers.0.self_attn.k_proj"],
    )
    assert by_layer["model.layers.1.mlp.up_proj"].endswith("(together with model.layers.1.mlp.gate_proj)")
    assert "together" not in by_layer["model.layers.1.mlp.down_proj"]


@pytest.mark.parametrize(
    "changes",
    [{"task": TaskInfo(kind=TaskKind.EMBEDDING)}, {"data": {"compared": "embedding"}}],
    ids=["embeddings asked for", "a head that is new"],
)
def test_what_embeddings_lose_is_no_nats(changes: dict[str, Any]) -> None:
    made = menu_of(CURVES.model_copy(update=changes), CompressConfig(bits_per_weight=4))
    cheapest = tuple(group.offers[0] for group in made.groups)
    for why in reasons(made, cheapest, 10**9, BY_LOSS):
        assert re.match(r"predicted to cost [0-9.e-]+ \(1 − cosine\)", why)
        assert "nats" not in why
