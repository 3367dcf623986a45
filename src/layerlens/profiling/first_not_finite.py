"""Where a NaN or an infinity first arises in a forward pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def first_not_finite(model: nn.Module, inputs: dict[str, Any]) -> str | None:
    """Name of the first module, in the order they finish, with an output that is not finite; None if there is none."""
    found: list[str] = []

    def look(name: str, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        if not found and isinstance(output, Tensor) and not torch.isfinite(output).all():
            found.append(name)

    handles = [module.register_forward_hook(partial(look, name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
