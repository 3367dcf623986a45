"""Blocks that run in bfloat16 autocast, and everything around them in float32.

Inside a block its products are rounded, and with them what autocast lets follow in their type (activations, attention weights,
norms of a product). The hidden state between blocks, the final norm, the head and the loss stay in float32, because a rounded
logit is off by up to 2⁻⁸ of itself, which a loss of few nats would show.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from layerlens.models.forward_hooks import taken_off


@contextmanager
def blocks_in_bf16(blocks: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Let the forward pass of these modules autocast to bfloat16 until the context ends; backward follows it.

    Args:
        blocks: Modules of which none runs inside another.
        device: Where they run.
    """
    with ExitStack() as on:

        def enter(_: nn.Module, __: Any) -> None:
            on.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))

        def leave(_: nn.Module, __: Any, ___: Any) -> None:
            on.close()

        handles = []
        for block in blocks:
            handles += [block.register_forward_pre_hook(enter), block.register_forward_hook(leave, always_call=True)]
        with taken_off(handles):
            yield
