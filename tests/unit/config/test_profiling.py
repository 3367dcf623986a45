"""Options of a profile as they are kept."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from layerlens.config import ProfilingConfig


def test_a_processor_leaves_no_word_in_the_record_and_an_accelerator_does() -> None:
    without = ProfilingConfig(device="cpu").record()
    assert without == ProfilingConfig().record()
    assert "device" not in without
    assert ProfilingConfig(device="cuda").record() == {**without, "device": "cuda"}
    assert ProfilingConfig.model_validate(without).record() == without


def test_a_length_that_was_not_given_reads_as_the_default_always_did() -> None:
    assert ProfilingConfig().max_length is None
    assert ProfilingConfig().record() == ProfilingConfig(max_length=128).record()
    assert ProfilingConfig().record()["max_length"] == 128
    assert ProfilingConfig().model_dump(exclude_defaults=True) == {}


def test_a_rounded_pass_is_named_and_one_in_float32_reads_as_it_always_did() -> None:
    without = ProfilingConfig().record()
    assert "precision" not in without
    assert ProfilingConfig(precision="bf16").record() == {**without, "precision": "bf16"}


def test_another_device_is_refused() -> None:
    with pytest.raises(ValidationError, match="device"):
        ProfilingConfig(device="tpu")
