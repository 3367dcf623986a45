"""A cap on memory that a model held in memory passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.streaming import memory_guard
from tests.functional.conftest import Run, Workplace


def test_a_cap_passed_in_memory_is_one_line_and_leaves_nothing(
    run: Run, workplace: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_guard, "peak_memory", lambda: 3 << 30)
    common = ("profile", workplace.model, "--data", workplace.data, "--out", tmp_path / "p", "--execution", "memory")
    done = run(*common, "--max-memory", "2GB", "--num-samples", 8, "--max-length", 8, "--head-samples", 8)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("layerlens: the process took 3,072 MiB, above --max-memory 2,048 MiB")
    assert not (tmp_path / "p").exists()
