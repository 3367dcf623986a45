"""The tensors inside what a module takes or returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield tensors of nested tuples, lists and mappings (model outputs included), in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)


def floating_tensors(value: Any) -> Iterator[Tensor]:
    """Yield the floating-point ones of `tensors`."""
    return (tensor for tensor in tensors(value) if tensor.is_floating_point())
