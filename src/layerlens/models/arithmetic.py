"""In what arithmetic a device is fast, and a product is made."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from layerlens.linalg.processor import processor_multiplies_bfloat16


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than float32 here: a GPU that supports it, or a processor with its instructions."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and processor_multiplies_bfloat16()


def product_type(inputs: Tensor) -> torch.dtype:
    """The type that a product with these inputs is in: autocast's where that is on, else their own."""
    return torch.get_autocast_dtype(inputs.device.type) if _is_autocast_on(inputs.device) else inputs.dtype


def training_autocast(device: torch.device) -> AbstractContextManager[object]:
    """The autocast that training takes unless it is told otherwise: bf16 where that is fast, else none."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if has_fast_bf16(device) else nullcontext()


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Products in their own type until the context ends, also inside an autocast."""
    return torch.autocast(device.type, enabled=False) if _is_autocast_on(device) else nullcontext()


def _is_autocast_on(device: torch.device) -> bool:
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
