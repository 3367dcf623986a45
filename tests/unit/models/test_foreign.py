from __future__ import annotations

import pytest
from transformers.utils import logging

from layerlens.models.foreign import LONGEST_REASON, one_line, quiet


def test_an_error_of_many_lines_becomes_its_type_and_first_line() -> None:
    assert one_line(ValueError("\n  it failed: \n because")) == "ValueError: it failed"


def test_an_error_without_a_message_still_says_its_type() -> None:
    assert one_line(KeyError()) == "KeyError: no reason given"


def test_a_long_line_is_cut() -> None:
    assert len(one_line(OSError("x" * 5000))) == len("OSError: ") + LONGEST_REASON


def fail_quietly() -> None:
    with quiet():
        assert logging.get_verbosity() == logging.CRITICAL
        assert not logging.is_progress_bar_enabled()
        raise RuntimeError("inside")


@pytest.mark.parametrize("has_bars", [True, False])
def test_logging_and_bars_are_as_before_even_after_an_error(has_bars: bool) -> None:
    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    (logging.enable_progress_bar if has_bars else logging.disable_progress_bar)()
    logging.set_verbosity(logging.INFO)
    try:
        with pytest.raises(RuntimeError, match="inside"):
            fail_quietly()
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled() is has_bars
    finally:
        logging.set_verbosity(verbosity)
        (logging.enable_progress_bar if had_bars else logging.disable_progress_bar)()
