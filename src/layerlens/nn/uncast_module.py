"""Buffers that keep their type when a model is cast, so that what is saved is what was loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class UncastModule(nn.Module):
    """Moves its 16-bit buffers between devices with the model, but casts none of them; abstract."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        types = {name: buffer.dtype for name, buffer in self._buffers.items() if buffer is not None}
        kept = [name for name, dtype in types.items() if dtype.is_floating_point and dtype.itemsize == 2]
        # Seen as integers they are moved and not cast.
        for name in kept:
            self._buffers[name] = self._buffers[name].view(torch.int16)  # type: ignore[union-attr]
        try:
            return super()._apply(fn, recurse)
        finally:
            for name in kept:
                self._buffers[name] = self._buffers[name].view(types[name])  # type: ignore[union-attr]
