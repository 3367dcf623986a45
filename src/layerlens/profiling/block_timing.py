"""Seconds of each block, forward and backward, and of what lies outside the blocks: the planner's time model.

Short passes of their own on one typical batch, without the hooks of the statistics: one warm-up, then medians of three, or of
more where they are short. Passes with weights frozen and with weights trainable take turns, so that what slows a machine down
slows both. In the arithmetic that training takes unless it is told otherwise: bf16 autocast where that is fast and the model runs
in it, with training's attention, else float32.
Clocks stand at the boundaries of the blocks: a block's backward runs from the moment the gradient of its output is
there to the moment the gradient of its input is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerlens.artifacts.layers import BlockSpec
from layerlens.artifacts.profile import BlockTiming
from layerlens.data.example import Batch
from layerlens.data.task import Task
from layerlens.models.arithmetic import has_fast_bf16, training_autocast
from layerlens.models.devices import seconds_now
from layerlens.models.forward_hooks import taken_off
from layerlens.models.frozen import frozen
from layerlens.models.plain_attention import tokens_of, training_attention
from layerlens.models.tensors_in import floating_tensors

#: Passes that count at least and at most, and the seconds beyond which no more than those at least are made.
_REPEATS, _MOST_REPEATS, _LONG_SECONDS = 3, 15, 3.0
_Pass = tuple[Float[np.ndarray, "directions blocks"], Float[np.ndarray, " directions"]]


@dataclass(frozen=True)
class ModelTiming:
    """Medians over repeats of one batch; `outside` is embeddings, head and loss, its backward with all weights trainable."""

    blocks: list[BlockTiming]
    outside_forward_seconds: float
    outside_backward_seconds: float
    outside_backward_frozen_seconds: float
    arithmetic: str


def time_model(model: nn.Module, blocks: Sequence[BlockSpec], task: Task, batch: Batch) -> ModelTiming:
    """Time one batch with all weights trainable, and once more with weights frozen.

    Weights, gradients and gradient flags are left as they were.
    """
    kept = [parameter.grad for parameter in model.parameters()]
    with frozen(model):
        arithmetic = "bf16" if _takes_bf16(model, task, batch) else "fp32"
        run = partial(_one_pass, model, blocks, task, batch, arithmetic)
        resting: list[_Pass] = []
        training: list[_Pass] = []
        device = next(model.parameters()).device
        start = seconds_now(device)
        while len(training) <= _REPEATS or (len(training) <= _MOST_REPEATS and seconds_now(device) - start < _LONG_SECONDS):
            for passes, is_trained in ((resting, False), (training, True)):
                for parameter in model.parameters():
                    parameter.requires_grad_(is_trained and parameter.is_floating_point())
                passes.append(run())
        (_, frozen_backward), (_, outside_frozen) = _medians(resting[1:])
        (forward, backward), (outside_forward, outside_backward) = _medians(training[1:])
    for parameter, gradient in zip(model.parameters(), kept, strict=True):
        parameter.grad = gradient
    timings = [
        BlockTiming(
            block=block.block,
            forward_seconds=float(forward[position]),
            backward_seconds=float(backward[position]),
            backward_frozen_seconds=float(frozen_backward[position]),
        )
        for position, block in enumerate(blocks)
    ]
    return ModelTiming(timings, float(outside_forward), float(outside_backward), float(outside_frozen), arithmetic)


def _takes_bf16(model: nn.Module, task: Task, batch: Batch) -> bool:
    """Whether bf16 is fast here and the model runs in it: a few put its results into float32 of their own (X-MOD)."""
    device = next(model.parameters()).device
    if not has_fast_bf16(device):
        return False
    try:
        with torch.no_grad(), training_autocast(device):
            model(**task.model_inputs(batch))
    except RuntimeError:
        return False
    return True


def _medians(passes: Sequence[_Pass]) -> _Pass:
    """Forward and backward seconds of each block, and outside them."""
    inside = np.median([seconds for seconds, _ in passes], axis=0)
    outside = np.median([np.maximum(0.0, totals - seconds.sum(axis=1)) for seconds, totals in passes], axis=0)
    return inside, outside


def _one_pass(model: nn.Module, blocks: Sequence[BlockSpec], task: Task, batch: Batch, arithmetic: str) -> _Pass:
    """Seconds (forward, backward) of each block, and of the whole pass."""
    model.zero_grad(set_to_none=True)
    clock, device = _Clock(model, blocks), next(model.parameters()).device
    with clock.running(), torch.enable_grad():
        start = clock.now()
        with _arithmetic(device, tokens_of(model, batch)) if arithmetic == "bf16" else nullcontext():
            outputs = model(**task.model_inputs(batch))
        loss = task.per_sample_loss(outputs, batch).mean()
        middle = clock.now()
        loss.backward()
        end = clock.now()
    model.zero_grad(set_to_none=True)
    return clock.seconds(), np.array([middle - start, end - middle])


@contextmanager
def _arithmetic(device: torch.device, num_tokens: float) -> Iterator[None]:
    with training_autocast(device), training_attention(device, num_tokens):
        yield


class _Clock:
    """Moments at which a pass enters and leaves each block."""

    def __init__(self, model: nn.Module, blocks: Sequence[BlockSpec]) -> None:
        self._modules = [model.get_submodule(block.path) for block in blocks]
        self._device = next(model.parameters()).device
        # Axes: forward or backward, entry or exit, block.
        self._moments = np.zeros((2, 2, len(blocks)))

    def now(self) -> float:
        return seconds_now(self._device)

    def seconds(self) -> Float[np.ndarray, "directions blocks"]:
        """Forward and backward seconds; zero for a block that no gradient ran through."""
        passed = (self._moments > 0.0).all(axis=1)
        return np.where(passed, np.maximum(0.0, self._moments[:, 1] - self._moments[:, 0]), 0.0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Clocks on, until the block ends."""
        handles = []
        for position, module in enumerate(self._modules):
            handles.append(module.register_forward_pre_hook(partial(self._enter, position), with_kwargs=True))
            handles.append(module.register_forward_hook(partial(self._leave, position)))
        with taken_off(handles):
            yield

    def _enter(self, position: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = next(floating_tensors((args, kwargs)), None)
        if hidden is not None:
            if not hidden.requires_grad:
                # The lowest block gives its input a gradient too, as every other does.
                hidden.requires_grad_()
            hidden.register_hook(partial(self._stamp, 1, 1, position))
        self._moments[0, 0, position] = self.now()

    def _leave(self, position: int, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        self._moments[0, 1, position] = self.now()
        hidden = next(floating_tensors(output), None)
        if hidden is not None and hidden.requires_grad:
            hidden.register_hook(partial(self._stamp, 1, 0, position))

    def _stamp(self, direction: int, end: int, position: int, _: Tensor) -> None:
        self._moments[direction, end, position] = self.now()
