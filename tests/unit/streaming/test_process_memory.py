"""What Linux tells of this process's memory is read as it is written; elsewhere nothing is told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from layerlens.adapting.memory import peak_memory
from layerlens.streaming import process_memory
from layerlens.streaming.process_memory import memory_told


def test_an_entry_is_told_in_bytes_and_by_its_whole_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  204 kB\nVmRSS:\t  102 kB\nRssFile:\t   7 kB\n")
    monkeypatch.setattr(process_memory, "STATUS", tmp_path / "status")
    assert [memory_told().get(name) for name in ("VmHWM", "VmRSS", "RssFile", "Rss")] == [204 << 10, 102 << 10, 7 << 10, None]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_this_process_is_told_of() -> None:
    told = memory_told()
    assert told["VmHWM"] >= told["VmRSS"] > told["RssFile"] > 0


def test_where_the_system_tells_nothing_the_peak_of_the_whole_process_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(process_memory, "STATUS", tmp_path / "nowhere")
    assert memory_told().get("VmRSS") is None
    with peak_memory(torch.device("cpu")) as peak:
        pass
    assert peak.num_bytes > 2**20
