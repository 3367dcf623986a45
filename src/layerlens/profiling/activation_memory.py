"""Bytes that autograd keeps of each block for the backward pass when the block's weights are frozen.

Counted, not measured: every tensor that an operation saves, once for each storage and without the parameters, so
the same model and batch shape always give the same number.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from layerlens.artifacts.layers import BlockSpec
from layerlens.data.example import Batch
from layerlens.data.task import Task
from layerlens.models.forward_hooks import taken_off
from layerlens.models.frozen import frozen
from layerlens.models.tensors_in import floating_tensors
from layerlens.profiling.saved_bytes import saved_bytes


def activation_bytes(model: nn.Module, blocks: Sequence[BlockSpec], task: Task, batch: Batch) -> list[int]:
    """Bytes saved inside each block in the forward pass of one batch, weights frozen, input needing a gradient."""
    current: list[int] = []

    def innermost() -> int | None:
        return current[-1] if current else None

    def enter(position: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        current.append(position)
        hidden = next(floating_tensors((args, kwargs)), None)
        if hidden is not None and not hidden.requires_grad:
            hidden.requires_grad_()

    def leave(_: nn.Module, __: tuple[Any, ...], ___: Any) -> None:
        current.pop()

    handles = []
    for position, block in enumerate(blocks):
        module = model.get_submodule(block.path)
        handles.append(module.register_forward_pre_hook(partial(enter, position), with_kwargs=True))
        handles.append(module.register_forward_hook(leave))
    stored = (*model.parameters(), *model.buffers())
    with taken_off(handles), frozen(model), torch.enable_grad(), saved_bytes(stored, innermost) as counted:
        model(**task.model_inputs(batch))
    return [counted[position] for position in range(len(blocks))]
