"""Where training runs and in what arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from layerlens.config import Precision
from layerlens.models.arithmetic import has_fast_bf16


def training_device() -> torch.device:
    """The first GPU where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def uses_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether training autocasts to bf16."""
    return precision is Precision.BF16 or (precision is Precision.AUTO and has_fast_bf16(device))


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Autocast of the forward pass; weights, gradients and optimiser state stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=uses_bf16(precision, device))


def kept_generators(device: torch.device) -> AbstractContextManager[None]:
    """Put torch's global generators, the processor's and this device's, back on exit."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


@contextmanager
def on_training_device(model: nn.Module) -> Iterator[torch.device]:
    """Keep `model` on the training device inside the context; afterwards it is where it was."""
    before = next(model.parameters()).device
    device = training_device()
    model.to(device)
    try:
        yield device
    finally:
        model.to(before)
