"""Where a NaN or an infinity first arises in a forward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from layerlens.models.forward_hooks import taken_off


def first_not_finite(model: nn.Module, inputs: dict[str, Any]) -> str | None:
    """Name of the first module, in the order they finish, with an output that is not finite; None if there is none."""
    return first_not_finite_layer(model, lambda: model(**inputs))


def first_not_finite_layer(module: nn.Module, forward: Callable[[], Any]) -> str | None:
    """The same for any forward pass that runs inside `module`; names are relative to it."""
    found: list[str] = []

    def look(name: str, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        if not found and isinstance(output, Tensor) and not torch.isfinite(output).all():
            found.append(name)

    handles = [child.register_forward_hook(partial(look, name)) for name, child in module.named_modules() if name]
    with taken_off(handles), torch.no_grad():
        forward()
    return found[0] if found else None
