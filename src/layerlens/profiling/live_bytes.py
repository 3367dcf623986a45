"""Bytes of the tensors that operations make, for as long as they live: what an allocator has to hold at once."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts each storage from the operation that gives it out until the last tensor on it is gone.

    What an operation takes and lets go inside itself is not seen.

    Args:
        known: Tensors that are in memory anyway, such as parameters; views of them are not counted.

    Attributes:
        num_bytes: Alive now.
        peak_bytes: The most that were alive at once.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.num_bytes = self.peak_bytes = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self._add(value)
        return made

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place = storage._cdata
        if place in self._known:
            return
        self._known.add(place)
        self.num_bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self.num_bytes)
        weakref.finalize(storage, self._drop, place, storage.nbytes())

    def _drop(self, place: int, num_bytes: int) -> None:
        self._known.discard(place)
        self.num_bytes -= num_bytes
