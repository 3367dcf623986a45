"""Peak memory of a stretch of work: of the GPU where the work runs there, else of the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from layerlens.models.devices import forget_peak, peak_device_bytes
from layerlens.streaming import memory_guard
from layerlens.streaming.memory_guard import MemoryGuard
from layerlens.streaming.process_memory import memory_told

RESET = Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """Filled in when the stretch ends."""

    num_bytes: int = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the highest resident set (processor) or allocation (GPU) inside the context, in bytes.

    Linux can set the process's high-water mark back, so that earlier work does not count; what that work freed is handed back
    first, since the C library would keep it. Elsewhere the mark of the whole process is what there is.
    """
    peak = Peak()
    if device.type != "cuda":
        _reset_high_water_mark()
    forget_peak(device)
    try:
        yield peak
    finally:
        on_device = peak_device_bytes(device)
        peak.num_bytes = _high_water_mark() if on_device is None else on_device


def _reset_high_water_mark() -> None:
    MemoryGuard.trim()
    try:
        RESET.write_text("5")
    except OSError:
        return


def _high_water_mark() -> int:
    told = memory_told().get("VmHWM")
    return memory_guard.peak_memory() if told is None else told
