"""The clock of training stands still where it is told to, and goes on from what an earlier process counted."""

from __future__ import annotations

from typing import NoReturn

import pytest

from layerlens.adapting import clock
from layerlens.adapting.clock import Clock


class FakeTime:
    """Time that passes only when it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(clock, "time", fake)
    return fake


def test_what_passes_while_it_is_stopped_does_not_count(time: FakeTime) -> None:
    counted = Clock()
    assert counted.seconds == 0.0
    counted.start()
    time.now += 3
    with counted.stopped():
        time.now += 50
        assert counted.seconds == 3.0
    time.now += 4
    assert counted.seconds == 7.0
    counted.add(20.0)
    assert counted.seconds == 27.0


def test_it_goes_on_after_a_failure(time: FakeTime) -> None:
    counted = Clock()
    counted.start()

    def fail() -> NoReturn:
        with counted.stopped():
            time.now += 5
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    time.now += 1
    assert counted.seconds == 1.0
