"""Forward passes that start at a given block, from what the blocks below gave once.

Frozen and without dropout, blocks below the lowest change never change their output, so it is computed once for
each batch and given back instead. The model's own code runs around it: only `forward` of the blocks below is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from layerlens.models.forward_hooks import taken_off
from layerlens.models.replaced_forward import replaced_forwards


class BlockReplay:
    """Outputs of every block for some batches, and forwards that reuse them."""

    def __init__(self, model: nn.Module, block_paths: Sequence[str]) -> None:
        self._blocks = [model.get_submodule(path) for path in block_paths]
        self._outputs: list[list[Any]] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep every block's output of the forward pass inside the context, as the next batch."""
        outputs: list[Any] = [None] * len(self._blocks)

        def keep(position: int, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            outputs[position] = _detached(output)

        handles = [block.register_forward_hook(partial(keep, position)) for position, block in enumerate(self._blocks)]
        with taken_off(handles), torch.no_grad():
            yield
        self._outputs.append(outputs)

    @contextmanager
    def starting_at(self, block: int, batch: int) -> Iterator[None]:
        """Let the blocks below `block` give back the kept output of the one right under it, for a recorded batch."""
        if block <= 0:
            yield
            return
        kept = self._outputs[batch][block - 1]

        def replay(*_: Any, **__: Any) -> Any:
            return kept

        with replaced_forwards([(module, replay) for module in self._blocks[:block]]):
            yield


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if type(value) in (tuple, list):
        return type(value)(_detached(item) for item in value)
    return value
