"""Where training runs and in what arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from layerlens.config import Precision, TrainingConfig
from layerlens.data.example import Batch
from layerlens.models.arithmetic import has_fast_bf16
from layerlens.models.plain_attention import tokens_of, training_attention

#: What accelerate sets on a model that it prepares for training.
_PREPARED = ("forward", "_original_forward", "_is_accelerate_prepared")


def training_device() -> torch.device:
    """The first GPU where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def uses_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether training autocasts to bf16."""
    return precision is Precision.BF16 or (precision is Precision.AUTO and has_fast_bf16(device))


def arithmetic(precision: Precision, device: torch.device) -> dict[str, str | bool]:
    """What a run's numbers depend on beside its config: where it trains, and whether in bf16."""
    return {"device": device.type, "bf16": uses_bf16(precision, device)}


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Autocast of the forward pass; weights, gradients and optimiser state stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=uses_bf16(precision, device))


def attention(config: TrainingConfig, device: torch.device, model: nn.Module, batch: Batch) -> AbstractContextManager[None]:
    """How attention is made in the forward pass.

    Torch's own choice in float32, with dropout, and where activations are computed again: that happens in the backward pass,
    outside of the context. So is what runs without gradients below the trained blocks, where the fused kernel is no slower, and
    where what one batch gives must not depend on the batch that it is wanted for.
    """
    if config.dropout or getattr(config, "gradient_checkpointing", False) or not uses_bf16(config.precision, device):
        return nullcontext()
    return training_attention(device, tokens_of(model, batch))


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


@contextmanager
def own_forward(model: nn.Module) -> Iterator[None]:
    """Take off again on exit what accelerate puts on the model itself: a `forward` that autocasts wherever it is called."""
    before = {name: vars(model)[name] for name in _PREPARED if name in vars(model)}
    try:
        yield
    finally:
        for name in _PREPARED:
            vars(model).pop(name, None)
        vars(model).update(before)
