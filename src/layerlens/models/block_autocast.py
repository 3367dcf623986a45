"""Blocks that multiply in bfloat16, and everything around them in float32.

Only the products of a block are rounded: hidden states between blocks, norms, head and loss stay in float32, because a rounded
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
def blocks_in_bf16(blocks: Iterable[nn.Module], *, is_wanted: bool = True) -> Iterator[None]:
    """Let the forward pass of these modules autocast to bfloat16 until the context ends; backward follows it.

    Args:
        blocks: Modules of which none runs inside another.
        is_wanted: Off, nothing happens.
    """
    if not is_wanted:
        yield
        return
    with ExitStack() as on:

        def enter(module: nn.Module, _: Any) -> None:
            kind = next(module.parameters()).device.type
            on.enter_context(torch.autocast(kind, dtype=torch.bfloat16))

        def leave(_: nn.Module, __: Any, ___: Any) -> None:
            on.close()

        handles = []
        for block in blocks:
            handles += [block.register_forward_pre_hook(enter), block.register_forward_hook(leave, always_call=True)]
        with taken_off(handles):
            yield
