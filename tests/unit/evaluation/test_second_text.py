"""The second text is neither the one that calibration saw nor the first."""

from __future__ import annotations

import pytest

from layerlens.data.sources.stdlib_code import read_stdlib_code, read_stdlib_prose
from layerlens.evaluation.second_text import second_text


@pytest.mark.parametrize(
    ("taken", "name"),
    [
        (["stdlib-docs"], "stdlib-code"),
        (["stories.txt", "code.py"], "stdlib-docs"),
        (["stdlib-docs", "other.txt"], "stdlib-code"),
        (["stories.txt", "stdlib-docs"], "stdlib-code"),
        ([], "stdlib-docs"),
    ],
)
def test_prose_is_chosen_unless_calibration_was_on_it_or_it_is_the_first_text(taken: list[str], name: str) -> None:
    found, text = second_text(*taken, max_chars=5000)
    assert found == name
    assert text == (read_stdlib_code(5000) if name == "stdlib-code" else read_stdlib_prose(5000))
    assert len(text) == 5000
