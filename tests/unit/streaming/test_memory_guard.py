"""Memory that was freed between what is kept goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Long-lived small tensors between large ones that go: what a C library keeps for later, in a process of its own.
_HOLES = """
from pathlib import Path
import torch
from layerlens.streaming.memory_guard import MemoryGuard

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])

first = torch.zeros(6 << 20)  # once such a one is freed, those that are smaller share one heap
del first
kept, gone = [], []
for _ in range(200):
    gone.append(torch.ones(1 << 18))
    kept.append(torch.ones(1 << 10))
held = resident()
gone.clear()
MemoryGuard.give_back()
print(held - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what is given back is read from Linux's /proc")
def test_holes_between_what_is_kept_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _HOLES], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0.9 * 200 * 1024
