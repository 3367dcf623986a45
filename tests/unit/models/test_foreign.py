from __future__ import annotations

import pytest
import torch
from transformers import NystromformerConfig, NystromformerModel
from transformers.utils import logging

from layerlens.models.foreign import LONGEST_REASON, model_fault, one_line, quiet


def test_an_error_of_many_lines_becomes_its_type_and_first_line() -> None:
    assert one_line(ValueError("\n  it failed: \n because")) == "ValueError: it failed"


def test_an_error_without_a_message_still_says_its_type() -> None:
    assert one_line(KeyError()) == "KeyError: no reason given"


def test_a_long_line_is_cut() -> None:
    assert len(one_line(OSError("x" * 5000))) == len("OSError: ") + LONGEST_REASON


def test_an_error_of_a_model_s_own_code_is_told_in_a_line_and_no_other_is() -> None:
    sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    # It takes texts of 64 tokens alone.
    model = NystromformerModel(NystromformerConfig(**sizes, num_landmarks=16))
    with pytest.raises(RuntimeError) as caught:
        model(input_ids=torch.zeros(1, 7, dtype=torch.long))
    told = model_fault(caught.value)
    assert told is not None
    assert "\n" not in told
    assert "modeling_nystromformer.py, line " in told
    assert "shape '[-1, 2, 16, 4, 4]' is invalid" in told
    assert model_fault(ValueError("of our own")) is None


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
