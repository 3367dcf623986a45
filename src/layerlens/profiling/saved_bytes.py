"""Bytes of the tensors that autograd saves for the backward pass, once for each storage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def saved_bytes(known: Iterable[Tensor], place: Callable[[], int | None]) -> Iterator[Counter[int]]:
    """Count what operations save until the context ends.

    Args:
        known: Tensors that are in memory anyway, such as parameters; their storages are not counted.
        place: Where the count goes that a storage adds when it is first saved; None leaves it to a later save.

    Returns:
        Bytes by place, which grow while the context lasts.
    """
    counted: Counter[int] = Counter()
    seen = {tensor.untyped_storage().data_ptr() for tensor in known}
    # Storages stay alive until the end, so that none takes the address of another.
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        here, storage = place(), tensor.untyped_storage()
        if here is not None and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            alive.append(tensor.detach())
            counted[here] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield counted
