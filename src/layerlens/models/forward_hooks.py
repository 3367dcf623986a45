"""Hooks on a model's modules that are sure to come off again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch.utils.hooks import RemovableHandle


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
