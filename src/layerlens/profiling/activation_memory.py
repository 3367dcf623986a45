"""What a training step takes beside weights, adapters and optimiser: counted on one small batch, as training runs it.

    saved      of each block: what its graph keeps for the backward pass, weights frozen, no dropout
    working    of each block: what its passes take beside that for a moment, gradients above all
    outside    of what follows the blocks: what autograd keeps, and the gradients of the outputs and of their logarithms

Counted, not measured: storages, each once and without the parameters, so the same model and batch shape always give the same
numbers, and those of a small batch stand for those of a large one (`step_memory`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.cache_utils import Cache

from layerlens.artifacts.layers import ModelLayout
from layerlens.data.example import Batch
from layerlens.data.task import Task
from layerlens.models.forward_hooks import taken_off
from layerlens.models.frozen import frozen
from layerlens.models.tensors_in import floating_tensors, tensors
from layerlens.profiling.batch_device import to_device_of
from layerlens.profiling.counted_samples import CountedSamples
from layerlens.profiling.detached import detached
from layerlens.profiling.live_bytes import LiveBytes
from layerlens.profiling.saved_bytes import saved_bytes

Hidden = Float[Tensor, "samples *tokens hidden"]

#: Tensors as large as the outputs that the loss's backward pass holds at once, beside what was saved: gradients of the outputs
#: and of their logarithms.
_OUTPUT_GRADIENTS = 2


@dataclass(frozen=True)
class Counted:
    """Bytes of one batch.

    Attributes:
        num_samples: Samples of the batch.
        num_tokens: Tokens of each, padding included.
        is_padded: Whether there is padding, so that the model takes a mask.
        saved: Kept by each block.
        working: Taken by each block for a moment.
        outside: Kept by what follows the blocks, with the outputs' gradients.
    """

    num_samples: int
    num_tokens: int
    is_padded: bool
    saved: list[int]
    working: list[int]
    outside: int


def count_step(model: nn.Module, layout: ModelLayout, task: Task, samples: CountedSamples) -> Counted:
    """Count a training step of a model in memory, block by block.

    Args:
        model: The task model; weights, gradient flags and modes are left as they were.
        layout: Its blocks, and the head that is trained beside any plan.
        task: Its loss.
        samples: One batch.
    """
    batch = to_device_of(model, task.collate(samples.examples))
    calls: list[tuple[int, tuple[Any, ...], dict[str, Any]]] = []
    ends: list[Tensor] = []

    def enter(position: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        # Off the graph of what comes before: a decoder's blocks read what was made of the encoder's last hidden state. And
        # without the cache that XLM makes whatever it is asked: a block that runs again would find it filled.
        given = detached(args), {name: None if isinstance(value, Cache) else detached(value) for name, value in kwargs.items()}
        calls.append((position, *given))
        ends.clear()
        return given

    def leave(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        # The last to leave is where what follows the blocks begins.
        ends.append(next(floating_tensors(output)).requires_grad_())

    blocks = [model.get_submodule(block.path) for block in layout.blocks]
    handles = [block.register_forward_pre_hook(partial(enter, at), with_kwargs=True) for at, block in enumerate(blocks)]
    handles += [block.register_forward_hook(leave) for block in blocks]
    stored = [*model.parameters(), *model.buffers()]
    saved, working = [0] * len(blocks), [0] * len(blocks)
    with as_trained(model, layout):
        with taken_off(handles):
            outside = outside_bytes(lambda: model(**task.model_inputs(batch)), task, batch, stored, is_there=lambda: bool(ends))
        for at, args, kwargs in calls:
            # What a block is given beside the hidden state, as masks and positions, is kept once for all blocks.
            kept, taken = block_bytes(*_on_hidden(blocks[at], args, kwargs), [*stored, *tensors((args, kwargs))])
            # A block whose weights are shared runs more than once.
            saved[at], working[at] = saved[at] + kept, max(working[at], taken)
    return Counted(len(samples.examples), samples.num_tokens, samples.is_padded, saved, working, outside)


def _on_hidden(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Callable[[Tensor], Any], Hidden]:
    """A block as a function of its hidden state, the first floating tensor that it takes, and that state."""
    hidden = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.is_floating_point())

    def run(given: Tensor) -> Any:
        def swapped(value: Any) -> Any:
            return given if value is hidden else value

        return block(*map(swapped, args), **{name: swapped(value) for name, value in kwargs.items()})

    return run, hidden


def block_bytes(run: Callable[[Tensor], Any], hidden: Hidden, stored: Sequence[Tensor]) -> tuple[int, int]:
    """Bytes that a block keeps between its forward and its backward pass, and that these take beside them for a moment.

    Args:
        run: The block, on a hidden state.
        hidden: What enters it.
        stored: What is in memory anyway.
    """
    leaf = hidden.detach().requires_grad_()
    with torch.enable_grad(), LiveBytes([*stored, leaf]) as live:
        # A copy lives on only if the block keeps it. Times one: the block above gives a dense gradient, a sum does not.
        total = (next(floating_tensors(run(leaf.clone()))) * 1.0).sum()
        saved = live.num_bytes - total.nbytes
        total.backward()
    return saved, live.peak_bytes - saved


def outside_bytes(
    run: Callable[[], Any], task: Task, batch: Batch, stored: Sequence[Tensor], *, is_there: Callable[[], bool] = lambda: True
) -> int:
    """Bytes that what follows the blocks keeps until its backward pass, with the gradients that this begins with.

    Args:
        run: The model, to its outputs; the hidden state that leaves the last block asks for a gradient.
        task: Its loss.
        batch: What the loss compares with.
        stored: What is in memory anyway.
        is_there: Whether the pass is beyond the blocks; what is saved before does not count.
    """
    with torch.enable_grad(), saved_bytes(stored, lambda: 0 if is_there() else None) as counted:
        outputs = run()
        task.per_sample_loss(outputs, batch).mean()
    storages = [tensor.untyped_storage() for tensor in floating_tensors(outputs) if tensor.requires_grad]
    return counted[0] + _OUTPUT_GRADIENTS * sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@contextmanager
def as_trained(model: nn.Module, layout: ModelLayout) -> Iterator[None]:
    """Weights frozen but for the head's, and nothing drawn, as adapters train unless asked otherwise.

    Afterwards modes and gradient flags are as they were.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        with frozen(model):
            for path in layout.head:
                for parameter in model.get_submodule(path).parameters():
                    parameter.requires_grad_(parameter.is_floating_point())
            yield
    finally:
        for module, is_training in modes:
            module.training = is_training
