"""The tensors inside what a module takes or returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def floating_tensors(value: Any) -> Iterator[Tensor]:
    """Yield floating-point tensors of nested tuples, lists and mappings (model outputs included), in order."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from floating_tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from floating_tensors(item)
