"""What a streamed run is told before it begins: the disk it takes, and what it cannot measure."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.errors import ConfigError
from layerlens.profiling.streamed.calibrated import measure_demand
from layerlens.streaming.memory_guard import MemoryGuard
from tests.unit.profiling.streamed.test_run import WHOLE, KilledError, case, run_streamed, stopped_after


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_the_features_of_a_new_head_take_the_disk_that_was_foretold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    measured = case(tmp_path, family)
    foretold = measure_demand(measured.streamed(), measured.data, measured.part, measured.config).head_bytes
    own, most = MemoryGuard.check, 0

    def check(guard: MemoryGuard) -> None:
        nonlocal most
        most = max(most, sum(file.stat().st_size for file in (tmp_path / "work").glob("*.bin")))
        own(guard)

    monkeypatch.setattr(MemoryGuard, "check", check)
    with stopped_after(monkeypatch, 0), pytest.raises(KilledError):
        run_streamed(measured, tmp_path / "work", **WHOLE)
    assert most == foretold > 0


def test_a_head_that_is_there_takes_no_disk(tmp_path: Path) -> None:
    measured = case(tmp_path, "gpt2")
    assert measure_demand(measured.streamed(), measured.data, measured.part, measured.config).head_bytes == 0


def test_proxies_as_the_only_metric_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    measured = case(tmp_path, "bert", metrics=["proxy_eval"], proxy="auto")
    with pytest.raises(ConfigError, match="no metric with a weight is left of proxy_eval"):
        run_streamed(measured, tmp_path / "work", **WHOLE)
    assert not (tmp_path / "work").exists()
