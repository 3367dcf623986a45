"""Tensors taken off the graph that made them."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def detached(value: Any) -> Any:
    """The same tensors without their graph, also in nested tuples, lists and dicts; anything else stays as it is."""
    if isinstance(value, Tensor):
        return value.detach()
    if type(value) in (tuple, list):
        return type(value)(detached(item) for item in value)
    if type(value) is dict:
        return {name: detached(item) for name, item in value.items()}
    return value
