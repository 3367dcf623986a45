"""Training without the model's own dropout: modules are in evaluation mode while they train.

Where fine-tuning ends after a few passes over the data, dropout holds it back more than it saves it from, adapters and whole
models alike, and it costs time and memory: what is drawn is kept for the backward pass, and attention with dropout keeps its
weights.

A block that is to compute its activations again (gradient checkpointing) does so in training mode alone, so it stays in that,
and its own numbers that are called dropout are zero meanwhile (BART's layers draw by such numbers, not by a module).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Let blocks draw nothing by numbers of their own inside the context; modules are put to rest by `rest_`, step by step."""
    numbers = [
        (block, name, value)
        for block in model.modules()
        if isinstance(block, GradientCheckpointingLayer)
        for name, value in vars(block).items()
        if "dropout" in name and isinstance(value, float)
    ]
    for block, name, _ in numbers:
        setattr(block, name, 0.0)
    try:
        yield
    finally:
        for block, name, value in numbers:
            setattr(block, name, value)


def rest_(model: nn.Module) -> None:
    """Put every module into evaluation mode, in place, but blocks that compute their activations again."""
    for module in model.modules():
        module.training = isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
