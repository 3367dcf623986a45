from __future__ import annotations

import pytest

from layerlens.data.sources.layouts import find_layout

COLA = ("source", "label", "mark", "sentence")
STS = ("genre", "file", "year", "index", "score", "sentence1", "sentence2")


@pytest.mark.parametrize(
    ("row", "wanted", "names", "has_header"),
    [
        (["sentence", "label"], [], ("sentence", "label"), True),
        (["Quality", "#1 ID"], [], ("Quality", "#1 ID"), True),
        (["gj04", "1", "", "They slept."], [], COLA, False),
        (["gj04", "0", "*", "Slept they."], ["3"], COLA, False),
        (["main-news", "MSRpar", "2012test", "12", "2.500", "a b", "c d"], [], STS, False),
        (["main-forums", "x", "2016", "8", "3", "a", "b", "licence", "licence"], [], STS, False),
        (["good film", "pos"], ["0", "1"], ("0", "1"), False),
        (["good film", "1"], [], ("0", "1"), False),
        (["utterance_text", "intent_name"], [], ("utterance_text", "intent_name"), True),
        (["what", "7"], ["what"], ("what", "7"), True),
        # Numbers may also be given for a file with a header.
        (["sentence", "label"], ["0", "1"], ("sentence", "label"), True),
        (["same", "same"], [], ("0", "1"), False),
    ],
)
def test_a_first_row_is_read_as_header_known_form_or_data(
    row: list[str], wanted: list[str], names: tuple[str, ...], has_header: bool
) -> None:
    layout = find_layout(row, wanted)
    assert layout.names == names
    assert layout.has_header == has_header


def test_only_the_sts_form_allows_more_fields() -> None:
    assert find_layout(["main-news", "MSRpar", "2012test", "12", "2.500", "a b", "c d"], []).num_optional == 2
    assert find_layout(["gj04", "1", "", "They slept."], []).num_optional == 0
