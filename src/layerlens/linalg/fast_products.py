"""Products of float32 matrices by oneDNN, where that is faster and as exact.

torch gives these products to MKL, which uses half the vector width on some processors (GFLOP/s on one core of an AMD EPYC with
AVX-512, 2048 × 768 by 768 × 3072: MKL 88, oneDNN 196). The one public switch that takes them to oneDNN also allows it to round to
bfloat16, which it does where the processor has AMX; elsewhere it computes in float32, to the same error as MKL. So the switch is
thrown only without AMX, and only once a product has been compared with float64.

Attention is slower by oneDNN (small products, two to six times), so the switch belongs around products of one's own, not around a
model. Which library multiplies shows in the last bits.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from layerlens.linalg.processor import processor_capabilities

#: Relative error of a product in float32 over 512 summands stays far below it; rounded to bfloat16 it is 2e-3.
_LARGEST_ERROR = 1e-5
_SIZE = 512


class _Switch:
    """torch's switch, which is the whole process's: thrown by the first that wants it, put back by the last."""

    def __init__(self) -> None:
        self._lock, self._users, self._before = threading.Lock(), 0, "none"

    def throw(self) -> None:
        with self._lock:
            if self._users == 0:
                self._before = str(_precision().fp32_precision)
                _precision().fp32_precision = "bf16"
            self._users += 1

    def put_back(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                # What it reads may be inherited from a setting above it; a value is written only where that is not so.
                _precision().fp32_precision = "none"
                if _precision().fp32_precision != self._before:
                    _precision().fp32_precision = self._before


_SWITCH = _Switch()


@contextmanager
def fast_products() -> Iterator[None]:
    """Let products of float32 matrices on the processor run by the faster library until the context ends."""
    if not _is_exact():
        yield
        return
    _SWITCH.throw()
    try:
        yield
    finally:
        _SWITCH.put_back()


def is_thrown() -> bool:
    """Whether products go to the faster library now."""
    return _precision() is not None and bool(_precision().fp32_precision == "bf16")


def _precision() -> Any:
    """Where torch has the switch, since 2.9; its type hints have it not."""
    return getattr(torch.backends.mkldnn, "matmul", None)


@functools.cache
def _is_exact() -> bool:
    """Whether this processor takes the switch and does not round for it."""
    capabilities = processor_capabilities()
    if not hasattr(_precision(), "fp32_precision") or not capabilities.get("avx512_bf16") or capabilities.get("amx_tile"):
        return False
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(_SIZE, _SIZE, generator=generator, dtype=torch.float32, device="cpu") for _ in range(2))
    _SWITCH.throw()
    try:
        # The first to ask may be inside an autocast, whose rounding is not the switch's.
        with torch.autocast("cpu", enabled=False):
            found: Tensor = left @ right
    finally:
        _SWITCH.put_back()
    exact = left.double() @ right.double()
    return float((found - exact).norm() / exact.norm()) < _LARGEST_ERROR
