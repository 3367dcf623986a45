"""How the figures of a suite are meant, as its page says."""

from __future__ import annotations

import pytest

from layerlens.workflow.bench_results import collect
from tests.unit.benching.suites import suite


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
