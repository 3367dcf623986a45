"""Training without the model's own dropout: modules are in evaluation mode while they train.

A fresh full-size model needs dropout against overfitting; the few parameters of an adapter can be held back by it, and it costs
memory: what is drawn is kept for the backward pass, and attention with dropout keeps its weights.

On a processor torch's attention with dropout is made of plain products. Without it torch would take its fused kernel, which keeps
no attention weights, but takes 1.4 to 3.5 times as long in bfloat16 up to 128 tokens (forward and backward; from 256 tokens on it
is twice as fast, and in float32 never slower). So short batches stay with plain products.

A block that is to compute its activations again (gradient checkpointing) does so in training mode alone, so it stays in that,
and its own numbers that are called dropout are zero meanwhile (BART's layers draw by such numbers, not by a module).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.modeling_layers import GradientCheckpointingLayer

from layerlens.adapting.precision import uses_bf16
from layerlens.config import TrainingConfig

#: Tokens up to which plain products are faster than the fused kernel, in bfloat16 on a processor.
_SHORT = 128


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


def plain_attention(
    config: TrainingConfig, device: torch.device, mask: Bool[Tensor, "samples tokens"] | None
) -> AbstractContextManager[None]:
    """Attention of plain products for a forward pass without dropout, where those are faster.

    Not where activations are computed again: that happens in the backward pass, outside of the context.
    """
    is_faster = device.type == "cpu" and uses_bf16(config.precision, device) and mask is not None and mask.shape[1] <= _SHORT
    if config.dropout or not is_faster or getattr(config, "gradient_checkpointing", False):
        return nullcontext()
    plain: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return plain
