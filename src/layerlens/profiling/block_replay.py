"""Forward passes that start at a given block, from what the blocks below gave once.

Frozen and without dropout, blocks below the lowest change never change their output, so it is computed once for
each batch and given back instead. The model's own code runs around it: only `forward` of the blocks below is replaced, and
each gives back its own, for a decoder's blocks read what the last of the encoder's gave.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from layerlens.models.forward_hooks import taken_off
from layerlens.models.replaced_forward import replaced_forwards
from layerlens.profiling.detached import detached


class BlockReplay:
    """Outputs of every block for some batches, and forwards that reuse them."""

    def __init__(self, model: nn.Module, block_paths: Sequence[str]) -> None:
        self._blocks = [model.get_submodule(path) for path in block_paths]
        self._outputs: list[list[Any]] = []
        self._order: list[int] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep every block's output of the forward pass inside the context, as the next batch."""
        outputs: list[Any] = [None] * len(self._blocks)
        self._order = []

        def keep(position: int, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            outputs[position] = detached(output)
            self._order.append(position)

        handles = [block.register_forward_hook(partial(keep, position)) for position, block in enumerate(self._blocks)]
        with taken_off(handles), torch.no_grad():
            yield
        self._outputs.append(outputs)

    @contextmanager
    def starting_at(self, block: int, batch: int) -> Iterator[None]:
        """Let the blocks that run before `block` give back their kept outputs for a recorded batch."""
        # A tree may list all attentions before all feed-forward networks, as XLM's does; a block that runs twice may run again.
        before = self._order[: self._order.index(block)] if block in self._order else []
        below = [position for position in before if self._order.count(position) == 1]

        def replay(position: int, *_: Any, **__: Any) -> Any:
            return self._outputs[batch][position]

        with replaced_forwards([(self._blocks[position], partial(replay, position)) for position in below]):
            yield
