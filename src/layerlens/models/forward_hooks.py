"""Hooks on a model's modules: what a layer reads with the gradient of what it gives, and hooks that surely come off again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def on_backward(module: nn.Module, see: Callable[[Tensor, Tensor], None]) -> RemovableHandle:
    """Hand over, in every backward pass, what a layer read and the gradient of what it gave, both `[…, features]`."""

    def read(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        inputs = args[0].detach()
        if not output.requires_grad:
            # Nothing below needs a gradient, so the graph starts here.
            output.requires_grad_()
        output.register_hook(lambda gradient: see(inputs, gradient.detach()))

    return module.register_forward_hook(read)


@contextmanager
def taken_off(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Leave hooks on until the context ends, however it ends.

    Args:
        handles: Of hooks that are on already.
    """
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
