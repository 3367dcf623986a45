from __future__ import annotations

import pytest

from layerlens.data.squad_score import answer_f1, exact_match, normalise_answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Denver Broncos!", "denver broncos"),
        ("  an  apple, a\tday ", "apple day"),
        ("Theatre", "theatre"),
        ("U.S.", "us"),
        # Punctuation goes before articles, so the article shows itself only then.
        ("'the' end", "end"),
        ("a-b", "ab"),
    ],
)
def test_answers_are_normalised_as_the_official_script_does(text: str, expected: str) -> None:
    assert normalise_answer(text) == expected


def test_the_best_of_several_answers_counts() -> None:
    assert exact_match("in 1921", ["1921", "In 1921."]) == 1.0
    assert exact_match("in 1921", ["1921"]) == 0.0
    assert answer_f1("in 1921", ["1922", "1921"]) == pytest.approx(2 / 3)


def test_words_are_counted_with_repetition() -> None:
    assert answer_f1("new new york", ["new york york"]) == pytest.approx(2 * 2 / 6)


def test_nothing_against_nothing_is_right_and_against_something_is_wrong() -> None:
    assert answer_f1("the", ["a"]) == 1.0
    assert answer_f1("", ["rome"]) == 0.0
