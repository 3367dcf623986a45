"""PEFT's LoRA on the layers of a compressed folder, which it does not know by itself.

    config._register_custom_module(STORED_LORA)

The sum is PEFT's own; what differs is that nothing may decode the matrix to look at it, and that nothing can be merged into it.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import nn

from layerlens.errors import ConfigError
from layerlens.models.weights import layer_features
from layerlens.nn.half_modules import HalfLinear
from layerlens.nn.stored_module import StoredModule


class StoredLora(Linear):  # type: ignore[misc]
    """LoRA around a stored linear layer."""

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: codes and factors cannot take an update.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "a LoRA cannot be merged into a compressed matrix; write the base out with `layerlens export --dense` and merge there"
        )

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
        out_features, in_features = layer_features(module)
        return in_features, out_features

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, torch.dtype]:
        # In its place PEFT would read `weight`, which decodes the whole matrix.
        return next(base_layer.buffers()).device, torch.float32


#: What PEFT's config is told: which layer wraps which.
STORED_LORA: dict[type[nn.Module], type[Any]] = {StoredModule: StoredLora, HalfLinear: StoredLora}
