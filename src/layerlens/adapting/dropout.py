"""Training without the model's own dropout: modules are in evaluation mode while they train.

Where fine-tuning ends after a few passes over the data, dropout holds it back more than it saves it from, adapters and whole
models alike, and it costs time and memory: what is drawn is kept for the backward pass, and attention with dropout keeps its
weights.

A block that is to compute its activations again (gradient checkpointing) does so in training mode alone, so it stays in that,
and its own numbers that are called dropout are zero meanwhile (BART's layers draw by such numbers, not by a module). So does an
int8 layer of bitsandbytes, which rounds activations too in evaluation mode.

What else a model does in training mode alone goes with it: the jitter of some routers of experts, a layer left out by chance
(LayerDrop, stochastic depth), BigBird's draw of blocks, the clipping of Gemma 3n's coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from layerlens.models.quantised_base import INT8_BNB_LAYER


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
    """Put every module into evaluation mode, in place, but those that need training mode for what is not dropout."""
    for module in model.modules():
        is_computed_again = isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
        # By name, as the library is there only for those who ask for it.
        module.training = is_computed_again or type(module).__name__ == INT8_BNB_LAYER
