"""Which device a word means."""

from __future__ import annotations

import time

import pytest
import torch

from layerlens.errors import ConfigError
from layerlens.models.devices import choose_device, device_name, free_device_bytes, peak_device_bytes, seconds_now


@pytest.mark.parametrize("word", ["auto", "cpu"])
def test_without_an_accelerator_the_processor_computes(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(word) == torch.device("cpu")


@pytest.mark.parametrize(("word", "meant"), [("auto", "cuda:1"), ("cuda", "cuda:1"), ("cpu", "cpu")])
def test_with_one_it_does_unless_the_processor_is_asked_for(monkeypatch: pytest.MonkeyPatch, word: str, meant: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert choose_device(word) == torch.device(meant)


def test_an_accelerator_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"--device cuda: torch .* finds no CUDA device here"):
        choose_device("cuda")


def test_a_processor_has_a_name_and_a_clock_and_no_memory_of_its_own() -> None:
    device = torch.device("cpu")
    assert device_name(device)
    assert seconds_now(device) <= seconds_now(device)
    assert free_device_bytes(device) is None
    assert peak_device_bytes(device) is None


@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_clock_of_one_thread_stands_still_while_it_waits(num_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    start = seconds_now(torch.device("cpu"))
    time.sleep(0.05)
    passed = seconds_now(torch.device("cpu")) - start
    assert passed < 0.02 if num_threads == 1 else passed >= 0.05
