"""Whether a model is streamed: what the user says, else what fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.config import ProfilingConfig
from layerlens.errors import ConfigError
from layerlens.models.checkpoint import Checkpoint, open_checkpoint
from layerlens.workflow import execution
from layerlens.workflow.execution import available_bytes, in_memory_bytes, is_streamed
from tests.tiny_models import save_tiny


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(str(save_tiny("bert", tmp_path / "model")))


@pytest.mark.parametrize(("free", "expected"), [(1 << 40, False), (700 << 20, True), (None, False)])
def test_auto_streams_what_does_not_fit_into_half_of_what_is_free(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, free: int | None, expected: bool
) -> None:
    monkeypatch.setattr(execution, "available_bytes", lambda: free)
    assert is_streamed(checkpoint, ProfilingConfig()) is expected


def test_a_cap_decides_before_what_is_free(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "available_bytes", lambda: 1 << 40)
    needed = in_memory_bytes(checkpoint, ProfilingConfig())
    assert not is_streamed(checkpoint, ProfilingConfig(max_memory=needed))
    assert is_streamed(checkpoint, ProfilingConfig(max_memory=needed - 1))
    with pytest.raises(ConfigError, match="leave out --execution memory to stream it"):
        is_streamed(checkpoint, ProfilingConfig(max_memory=needed - 1, execution="memory"))
    assert is_streamed(checkpoint, ProfilingConfig(execution="stream"))


def test_what_is_asked_of_memory_grows_with_the_weights(tmp_path: Path, checkpoint: Checkpoint) -> None:
    wider = open_checkpoint(str(save_tiny("bert", tmp_path / "wider", intermediate_size=128)))
    # Two blocks, two matrices each: 32 × 64 entries more in the weight and two gradients, and a Gram of 128² for one of 64².
    more = 4 * 4 * (3 * 32 * 64 + 128**2 - 64**2) + 2 * 4 * 64
    assert in_memory_bytes(wider, ProfilingConfig()) - in_memory_bytes(checkpoint, ProfilingConfig()) == more
    # Autocast keeps those matrices a second time, in two bytes an entry.
    half = ProfilingConfig(precision="bf16")
    assert in_memory_bytes(wider, half) - in_memory_bytes(checkpoint, half) == more + 2 * 4 * 32 * 64


def test_free_memory_is_within_what_the_machine_has() -> None:
    free = available_bytes()
    assert free is None or 0 <= free < 1 << 46


@pytest.mark.parametrize(("given", "expected"), [("500MB", 500 << 20), ("1.5GiB", 3 << 29), ("2g", 2 << 30), (1024, 1024)])
def test_bytes_are_written_as_people_write_them(given: object, expected: int) -> None:
    assert ProfilingConfig(max_memory=given).max_memory == expected
