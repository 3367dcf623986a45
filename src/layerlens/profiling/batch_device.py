"""Moves a batch to where the model is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def to_device_of(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with every tensor on the device of the model's first parameter."""
    device = next(model.parameters()).device
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
