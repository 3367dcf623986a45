"""Tokens of each sample, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from layerlens.artifacts.layers import LayerSpec
from layerlens.data.example import Example
from layerlens.data.task import Task
from layerlens.profiling.batch_device import to_device_of


def text_lengths(examples: Sequence[Example]) -> list[int] | None:
    """Token ids of each sample; None where the samples are no text."""
    is_text = all("input_ids" in example for example in examples)
    return [len(example["input_ids"]) for example in examples] if is_text else None


def sample_lengths(model: nn.Module, layers: Sequence[LayerSpec], task: Task, examples: Sequence[Example]) -> list[int]:
    """Count the tokens of each sample.

    Text is counted by its token ids. Images of one model all have the same number of patches; it is read off the
    input of the first planned layer in one forward pass of one sample.
    """
    lengths = text_lengths(examples)
    if lengths is not None:
        return lengths
    seen: list[int] = []

    def count(_: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0].numel() // args[0].shape[-1])

    handle = model.get_submodule(layers[0].layer).register_forward_pre_hook(count)
    try:
        with torch.no_grad():
            model(**to_device_of(model, task.model_inputs(task.collate(examples[:1]))))
    finally:
        handle.remove()
    return [max(seen, default=1)] * len(examples)
