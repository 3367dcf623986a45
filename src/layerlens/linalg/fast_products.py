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
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

#: Relative error of a product in float32 over 512 summands stays far below it; rounded to bfloat16 it is 2e-3.
_LARGEST_ERROR = 1e-5
_SIZE = 512


@contextmanager
def fast_products() -> Iterator[None]:
    """Let products of float32 matrices on the processor run by the faster library until the context ends."""
    if not _is_exact():
        yield
        return
    switch = _switch()
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        yield
    finally:
        switch.fp32_precision = before


def _switch() -> Any:
    """torch has it since 2.9, and its type hints have it not."""
    return getattr(torch.backends.mkldnn, "matmul", None)


@functools.cache
def _is_exact() -> bool:
    """Whether this processor takes the switch and does not round for it."""
    switch = _switch()
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if not hasattr(switch, "fp32_precision") or not capabilities.get("avx512_bf16") or capabilities.get("amx_tile"):
        return False
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(_SIZE, _SIZE, generator=generator) for _ in range(2))
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        found: Tensor = left @ right
    finally:
        switch.fp32_precision = before
    exact = left.double() @ right.double()
    return float((found - exact).norm() / exact.norm()) < _LARGEST_ERROR
