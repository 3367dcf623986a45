"""Whether a model is streamed: what the user says, else what fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.config import ProfilingConfig
from layerlens.errors import ConfigError
from layerlens.models.checkpoint import Checkpoint, open_checkpoint
from layerlens.profiling.activation_memory import count_step
from layerlens.profiling.counted_samples import CountedSamples
from layerlens.words import TaskKind
from layerlens.workflow import execution
from layerlens.workflow.execution import LargestBatch, available_bytes, batch_bytes, in_memory_bytes, is_streamed
from layerlens.workflow.open import open_profile_model
from tests.tiny_models import save_tiny
from tests.unit.profiling.cases import open_case

NOTHING = LargestBatch(num_tokens=0, num_logits=0)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(str(save_tiny("bert", tmp_path / "model")))


@pytest.mark.parametrize(("free", "expected"), [(1 << 40, False), (700 << 20, True), (None, False)])
def test_auto_streams_what_does_not_fit_into_half_of_what_is_free(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, free: int | None, expected: bool
) -> None:
    monkeypatch.setattr(execution, "available_bytes", lambda: free)
    assert is_streamed(checkpoint, ProfilingConfig(), NOTHING) is expected


def test_processes_share_what_is_free_and_each_has_the_cap(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = in_memory_bytes(checkpoint, ProfilingConfig())
    monkeypatch.setattr(execution, "available_bytes", lambda: 5 * needed)
    assert not is_streamed(checkpoint, ProfilingConfig(), NOTHING, 2)
    assert is_streamed(checkpoint, ProfilingConfig(), NOTHING, 3)
    assert not is_streamed(checkpoint, ProfilingConfig(max_memory=needed), NOTHING, 3)


def test_a_batch_counts_beside_the_model(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    config, batch = ProfilingConfig(), LargestBatch(num_tokens=4096, num_logits=50_000)
    held = in_memory_bytes(checkpoint, config)
    # Logits, their logarithms, and a gradient of each, in float32.
    added = batch_bytes(checkpoint, batch)
    assert added - batch_bytes(checkpoint, LargestBatch(4096, 0)) == 4096 * 50_000 * 4 * 4
    for free, expected in ((int(1.2 * (held + added)), True), (int(1.3 * (held + added)), False)):
        monkeypatch.setattr(execution, "available_bytes", lambda free=free: free)
        assert is_streamed(checkpoint, config, batch) is expected
        assert not is_streamed(checkpoint, config, NOTHING)


def test_what_a_batch_is_priced_at_is_about_what_is_kept(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=8)
    batch = case.task.collate(case.examples)
    num_tokens = batch["input_ids"].numel()
    # Weights are frozen, so autograd keeps no inputs of theirs; the hooks of the pass do until the gradients have come.
    kept = sum(count_step(case.model, case.layout, case.task, CountedSamples(case.examples, batch["input_ids"].shape[1])).saved)
    kept += 4 * num_tokens * sum(spec.in_features for spec in case.layout.layers)
    assert 0.5 * kept < batch_bytes(case.task_model.checkpoint, LargestBatch(num_tokens, 0)) < 2 * kept


@pytest.mark.parametrize(("family", "num_logits"), [("bert", 0), ("gpt2", 200)])
def test_the_largest_batch_is_that_of_the_samples_that_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, num_logits: int
) -> None:
    seen: list[LargestBatch] = []

    def keep(_: Checkpoint, __: ProfilingConfig, batch: LargestBatch, ___: int) -> bool:
        seen.append(batch)
        return False

    monkeypatch.setattr("layerlens.workflow.open.is_streamed", keep)
    data = tmp_path / ("data.csv" if family == "bert" else "data.txt")
    rows = [f"w1 w2 w3,{label}" for label in ("a", "b")] * 20
    data.write_text("\n".join(["text,label", *rows]) if family == "bert" else "w1 " * 400)
    model = save_tiny(family, tmp_path / "model")
    open_profile_model(str(model), str(data), ProfilingConfig(num_samples=6, batch_size=4, max_length=16))
    # Three words between two special tokens, or windows as long as they may be.
    assert seen == [LargestBatch(num_tokens=4 * (5 if family == "bert" else 16), num_logits=num_logits)]


def test_a_cap_decides_before_what_is_free(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "available_bytes", lambda: 1 << 40)
    batch = LargestBatch(num_tokens=64, num_logits=200)
    needed = in_memory_bytes(checkpoint, ProfilingConfig()) + batch_bytes(checkpoint, batch)
    assert not is_streamed(checkpoint, ProfilingConfig(max_memory=needed), batch)
    assert is_streamed(checkpoint, ProfilingConfig(max_memory=needed - 1), batch)
    with pytest.raises(ConfigError, match="leave out --execution memory to stream it"):
        is_streamed(checkpoint, ProfilingConfig(max_memory=needed - 1, execution="memory"), batch)
    assert is_streamed(checkpoint, ProfilingConfig(execution="stream"), batch)


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
