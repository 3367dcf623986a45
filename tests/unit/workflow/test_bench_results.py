"""How the figures of a suite are meant, as its page says."""

from __future__ import annotations

import pytest

from layerlens.words import Method
from layerlens.workflow.bench_arms import trained_by
from layerlens.workflow.bench_results import collect
from tests.unit.benching.suites import suite
from tests.unit.reporting import artifacts


@pytest.mark.parametrize(
    ("tuned", "words", "has_reason"),
    [
        ("arm", "; every arm but search and search-10x tuned on", True),
        ("kind", "; one arm of each grid, for all others, tuned on", False),
    ],
)
def test_searches_are_said_to_take_uniform_s_rate(tuned: str, words: str, has_reason: bool) -> None:
    asked = suite(arms=["uniform", "search", "search-10x"], learning_rates={"tuned": tuned})
    notes = collect(asked, [], command="c").notes
    assert sum(words in note for note in notes) == 1
    assert any("search and search-10x trained at uniform's rate" in note for note in notes) == has_reason
    plain = collect(suite(), [], command="c").notes
    assert sum("; every arm tuned on" in note for note in plain) == 1


def test_two_plans_train_the_same_where_every_site_has_the_same_size_whatever_they_are_called() -> None:
    plan = artifacts.plan("whitened")
    first = plan.adapted[0]
    renamed = plan.model_copy(update={"chosen": plan.chosen.model_copy(update={"name": "mlp"})})
    changed = [entry.model_copy(update={"size": entry.size + 1}) if entry == first else entry for entry in plan.layers]
    assert trained_by(plan) == trained_by(renamed) != trained_by(plan.model_copy(update={"layers": changed}))
    assert (first.layer, "linear", Method.LORA, first.size) in trained_by(plan)
