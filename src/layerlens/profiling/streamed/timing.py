"""Seconds, kept activations and shared inputs of the blocks of a streamed model; blocks of one shape share a measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from layerlens.artifacts.layers import BlockSpec
from layerlens.artifacts.profile import BlockTiming, Timing
from layerlens.data.example import Example
from layerlens.data.task import Task
from layerlens.models.arithmetic import has_fast_bf16, training_autocast
from layerlens.models.devices import device_name, seconds_now
from layerlens.models.forward_hooks import taken_off
from layerlens.models.frozen import frozen
from layerlens.models.plain_attention import training_attention
from layerlens.models.streamed.load import StreamedModel
from layerlens.models.streamed.streamed_linear import StreamedLinear
from layerlens.models.tensors_in import floating_tensors
from layerlens.profiling.latency import latency_models
from layerlens.profiling.saved_bytes import saved_bytes
from layerlens.profiling.typical_batch import typical_batch
from layerlens.profiling.update_timing import update_seconds_per_parameter
from layerlens.streaming.samples import Part, Samples

_REPEATS = 3
_LONG_SECONDS = 2.0


def time_blocks(
    model: StreamedModel,
    task: Task,
    samples: Samples,
    *,
    batch_size: int,
    holds_weights: bool,
    loss_tokens: int | None = None,
) -> Timing:
    """Time one batch through a block of each shape and through what surrounds the blocks.

    In the arithmetic that training takes unless it is told otherwise: bf16 autocast where that is fast. A weight's gradient
    is computed in slices and let go, so its time is in the backward seconds and its memory is not.

    Args:
        model: The streamed model.
        task: Its loss.
        samples: One batch, from `typical_part`.
        batch_size: Samples of a training batch, which takes as many times as long as it has times as many samples.
        holds_weights: Keep the weights of the block at hand in memory, as the pass does.
        loss_tokens: Padded tokens that run through the head together, as in the pass; the batch takes so many times as long.
    """
    part = next(samples.parts())
    num_samples, tokens, _ = samples.shapes[0]
    repeats = batch_size / num_samples
    by_shape: dict[Any, BlockTiming] = {}
    timings = []
    for position, block in enumerate(model.layout.blocks):
        shape = block_shape(model, position)
        if shape not in by_shape:
            with frozen(model.model), model.held(position, is_wanted=holds_weights):
                run = partial(_block_pass, model, samples, part, position)
                layers = model.layers_of(position).values()
                (forward, frozen_backward), (_, backward) = _medians(run, partial(_with_weight_gradients, run, layers))
            by_shape[shape] = BlockTiming(
                block=block.block,
                forward_seconds=repeats * forward,
                backward_seconds=repeats * backward,
                backward_frozen_seconds=repeats * frozen_backward,
            )
        timings.append(by_shape[shape].model_copy(update={"block": block.block}))
    with frozen(model.model):
        for parameter in model.model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        few = next(samples.parts(loss_tokens))
        repeats = batch_size / (few.samples.stop - few.samples.start)
        (outside,) = _medians(lambda: _outside_pass(model, task, samples, few))
    for parameter in model.model.parameters():
        parameter.grad = None
    device = model.skeleton.device
    return Timing(
        device=device_name(device),
        threads=torch.get_num_threads(),
        batch_size=batch_size,
        tokens_per_batch=batch_size * tokens,
        outside_forward_seconds=repeats * outside.forward,
        outside_backward_seconds=repeats * outside.backward,
        update_seconds_per_parameter=update_seconds_per_parameter(device),
        arithmetic="bf16" if has_fast_bf16(device) else "fp32",
        blocks=timings,
        latency=latency_models(model.layout.layers, device),
    )


def count_activations(model: StreamedModel, samples: Samples) -> list[float]:
    """Bytes per token that autograd keeps of each block when its weights are frozen, counted on the first part of the samples."""
    part = next(samples.parts())
    num_samples, tokens = part.samples.stop - part.samples.start, samples.shapes[0][1]
    by_shape: dict[Any, float] = {}
    for position in range(len(model.layout.blocks)):
        shape = block_shape(model, position)
        if shape not in by_shape:
            with frozen(model.model):
                by_shape[shape] = _kept_bytes(model, samples, part, position) / (num_samples * tokens)
    return [by_shape[block_shape(model, position)] for position in range(len(model.layout.blocks))]


def shared_inputs(model: StreamedModel, samples: Samples) -> dict[str, str]:
    """By layer, the first layer of its block that reads the same input, as seen on the first part of the samples."""
    part = next(samples.parts())
    by_shape: dict[Any, dict[str, str]] = {}
    found: dict[str, str] = {}
    for position, block in enumerate(model.layout.blocks):
        shape = block_shape(model, position)
        if shape not in by_shape:
            groups = _shared_in(model, samples, part, position)
            by_shape[shape] = {_inside(block, layer): _inside(block, first) for layer, first in groups.items()}
        found |= {f"{block.path}.{layer}": f"{block.path}.{first}" for layer, first in by_shape[shape].items()}
    return found


def _shared_in(model: StreamedModel, samples: Samples, part: Part, block: int) -> dict[str, str]:
    # What was read stays alive until the end, so that no other tensor takes its address.
    read: list[Tensor] = []
    readers: dict[Any, str] = {}
    groups: dict[str, str] = {}

    def look(layer: str, _: Any, args: tuple[Tensor, ...]) -> None:
        read.append(args[0])
        groups[layer] = readers.setdefault((args[0].data_ptr(), args[0].shape, args[0].stride()), layer)

    hidden, call = samples.entry(part).hidden, samples.call(part, block)
    handles = [module.register_forward_pre_hook(partial(look, layer)) for layer, module in model.layers_of(block).items()]
    with taken_off(handles), torch.no_grad():
        model.skeleton.call(block, hidden, call)
    return groups


def _inside(block: BlockSpec, layer: str) -> str:
    return layer.removeprefix(f"{block.path}.")


class _Seconds(NamedTuple):
    forward: float
    backward: float


def _medians(*runs: Callable[[], _Seconds]) -> list[_Seconds]:
    """Of each run; they take turns, so that what slows the machine down slows all of them."""
    # The first turn warms up; where a run is long, noise is a small share of it and one more is enough.
    first = [run() for run in runs]
    repeats = 1 if max(map(sum, first)) > _LONG_SECONDS else _REPEATS
    turns = [[run() for run in runs] for _ in range(repeats)]
    return [_Seconds(*np.median([turn[number] for turn in turns], axis=0).tolist()) for number in range(len(runs))]


def _block_pass(model: StreamedModel, samples: Samples, part: Part, block: int) -> _Seconds:
    hidden = samples.entry(part).hidden.clone().requires_grad_()
    call, device = samples.call(part, block), model.skeleton.device
    start = seconds_now(device)
    attention = training_attention(device, samples.shapes[0][1]) if has_fast_bf16(device) else nullcontext()
    with torch.enable_grad(), training_autocast(device), attention:
        output = model.skeleton.call(block, hidden, call)
    middle = seconds_now(device)
    output.backward(torch.ones_like(output))
    return _Seconds(middle - start, seconds_now(device) - middle)


def _outside_pass(model: StreamedModel, task: Task, samples: Samples, part: Part) -> _Seconds:
    device = model.skeleton.device
    start = seconds_now(device)
    hidden = samples.entry(part).hidden.clone().requires_grad_()
    with torch.enable_grad(), training_autocast(device):
        output = model.skeleton.finish(part.inputs, hidden)
    with torch.enable_grad():
        loss = task.per_sample_loss(output, part.values).mean()
    middle = seconds_now(device)
    loss.backward()
    return _Seconds(middle - start, seconds_now(device) - middle)


def _kept_bytes(model: StreamedModel, samples: Samples, part: Part, block: int) -> int:
    """Bytes of every tensor that an operation of the block saves, once for each storage and without the parameters."""
    hidden = samples.entry(part).hidden.clone().requires_grad_()
    call = samples.call(part, block)
    # What a block is given, as positions, is kept once for all blocks and not by this one.
    known = (*model.model.parameters(), *model.model.buffers(), *floating_tensors((call.args, call.kwargs)))
    with torch.enable_grad(), saved_bytes(known, lambda: block) as counted:
        model.skeleton.call(block, hidden, call)
    return counted[block]


def typical_part(
    model: StreamedModel,
    task: Task,
    examples: Sequence[Example],
    lengths: Sequence[int],
    *,
    num_samples: int,
    batch_size: int,
    tokens_at_once: int,
) -> Samples:
    """One typical batch, no larger than what runs at once."""
    batch = typical_batch(task, examples, lengths, num_samples=num_samples, batch_size=batch_size, max_tokens=tokens_at_once)
    return Samples.of_batches(model.skeleton, task, [batch], tokens_at_once=1 << 60)


def block_shape(model: StreamedModel, block: int) -> Any:
    """What blocks that take the same time have in common."""
    # Their modules too: ModernBERT's first block has no norm before its attention.
    modules = model.model.get_submodule(model.layout.blocks[block].path).modules()
    return tuple(map(type, modules)), tuple((layer.out_features, layer.in_features) for layer in model.layers_of(block).values())


def _with_weight_gradients(run: Callable[[], _Seconds], layers: Iterable[StreamedLinear]) -> _Seconds:
    """A run whose backward also spends the products that the weights' gradients take."""
    modules = list(layers)
    try:
        for layer in modules:
            layer.times_weight_gradient = True
        return run()
    finally:
        for layer in modules:
            layer.times_weight_gradient = False
