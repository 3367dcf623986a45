"""The text that a compressed language model is measured on beside the one it was calibrated on.

What calibration saw is kept best, so a figure on such text alone flatters. Where the user names no other text it is one of two
that every Python brings along: the library's docstrings, or its code where the docstrings were what calibration saw or are the
first text.
"""

from __future__ import annotations

from layerlens.data.sources.stdlib_code import NAME as CODE
from layerlens.data.sources.stdlib_code import read_stdlib_code, read_stdlib_prose
from layerlens.data.sources.stdlib_docs import NAME as DOCS


def second_text(*taken: str, max_chars: int = 60_000) -> tuple[str, str]:
    """Choose the second text.

    Args:
        *taken: What the calibration data and the first text are called: built-in names or paths.
        max_chars: How much of it.

    Returns:
        Its name and the text.

    Raises:
        DataError: this Python brings no sources.
    """
    if DOCS in taken:
        return CODE, read_stdlib_code(max_chars)
    return DOCS, read_stdlib_prose(max_chars)
