"""Attention of plain products where torch's fused kernel is slower: in bfloat16 on a processor, up to 256 tokens.

Without dropout torch takes its fused kernel, which keeps no attention weights. Forward and backward pass of a whole model take
1.1 to 1.6 times as long with it as with products in bfloat16, which keep more: 3 to 11 % of what a model keeps at 128 tokens, 10
to 26 % at 256, and ever more beyond (`benchmarks/attention.py`). Torch would make the products in float32, which are slower and
keep more again, unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

#: Tokens up to which time saved is worth the attention weights that are kept.
_SHORT = 256


def training_attention(device: torch.device, num_tokens: float) -> AbstractContextManager[None]:
    """The attention that training in bfloat16 takes where there is no dropout: plain products for short samples on a processor.

    Args:
        device: Where the model is.
        num_tokens: Of each sample, padding included.
    """
    return _plain() if device.type == "cpu" and num_tokens <= _SHORT else nullcontext()


@contextmanager
def _plain() -> Iterator[None]:
    was_reduced = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    # Named for CUDA, but it decides on a processor too.
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(was_reduced)


def tokens_of(model: nn.Module, batch: Mapping[str, Tensor]) -> float:
    """Of each sample, padding included; without end where that is not known."""
    if (mask := batch.get("attention_mask")) is not None:
        return mask.shape[1]
    config: Any = getattr(model, "config", None)
    patch, pixels = getattr(config, "patch_size", None), batch.get("pixel_values")
    if pixels is None or not isinstance(patch, int):
        return float("inf")
    return (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch)
